#include "cpu/disasm.h"

#include <dlfcn.h>
#include <pthread.h>
#include "base/log.h"

#define STRING(x)  #x
#define VERSION(x) STRING(x)
/* The ABI of the headers this was compiled with: capstone's soname has its major version. */
#define LIBRARY "libcapstone.so." VERSION(CS_API_MAJOR)

static CapstoneLib lib;
static char *failed; /* why it could not be loaded */

static const CapstoneLib *load(void)
{
    static gsize once;
    if (g_once_init_enter(&once)) {
        void *handle = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL);
        const char *why = handle ? NULL : dlerror();
#define X(name)                                                                 \
    if (!why) {                                                                 \
        lib.name = (__typeof__(lib.name))(uintptr_t)dlsym(handle, "cs_" #name); \
        why = lib.name ? NULL : dlerror();                                      \
    }
        CAPSTONE_FUNCTIONS(X)
#undef X
        failed = g_strdup(why);
        g_once_init_leave(&once, 1);
    }
    return failed ? NULL : &lib;
}

const CapstoneLib *capstone_lib(GError **err)
{
    if (!load())
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "the disassembler cannot be loaded: %s", failed);
    return load();
}

unsigned disasm_insn(unsigned bits, const uint8_t *bytes, size_t len, uint64_t rip,
                     char text[DISASM_TEXT])
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static csh handle[3];
    static cs_insn *insn;
    static const cs_mode mode[3] = {CS_MODE_16, CS_MODE_32, CS_MODE_64};
    const CapstoneLib *cs = load();
    unsigned which = bits == 64 ? 2 : bits == 32 ? 1 : 0, n = 0;
    if (!cs) {
        g_snprintf(text, DISASM_TEXT, "(%s)", failed);
        return 0;
    }
    g_strlcpy(text, "(bad)", DISASM_TEXT);
    pthread_mutex_lock(&lock);
    if (handle[which] || cs->open(CS_ARCH_X86, mode[which], &handle[which]) == CS_ERR_OK) {
        if (!insn)
            insn = cs->malloc(handle[which]);
        if (cs->disasm_iter(handle[which], &bytes, &len, &rip, insn)) {
            n = insn->size;
            g_snprintf(text, DISASM_TEXT, "%s%s%s", insn->mnemonic, *insn->op_str ? " " : "",
                       insn->op_str);
        }
    }
    pthread_mutex_unlock(&lock);
    return n;
}
