/*
 * Two arrays' worth of order: `sym` by address for "which symbol is here", and a hash by name. A
 * name is kept once; of several files or static functions with the same name the first counts.
 */
#include "base/symbols.h"

#include <elf.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/nearest.h"

typedef struct Symbol {
    uint64_t addr, size; /* size 0: not said */
    char *name;
    bool code, global;
} Symbol;

struct Symbols {
    GArray *sym; /* of Symbol: by address, of the same address the better name first */
    GHashTable *by_name;
    _Atomic int64_t offset;
};

/* Behind the last name of a file without sizes: how far it may reach. */
#define LAST_REACH 0x10000
/* No name is so long: a file with longer lines is something else, maybe of many gigabytes. */
#define LINE_MAX_BYTES 65536

static void symbol_clear(gpointer s)
{
    g_free(((Symbol *)s)->name);
}

static GArray *new_list(void)
{
    GArray *a = g_array_new(FALSE, FALSE, sizeof(Symbol));
    g_array_set_clear_func(a, symbol_clear);
    return a;
}

Symbols *symbols_new(void)
{
    Symbols *s = g_new0(Symbols, 1);
    s->sym = new_list();
    s->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    return s;
}

void symbols_free(Symbols *s)
{
    if (!s)
        return;
    g_hash_table_unref(s->by_name);
    g_array_unref(s->sym);
    g_free(s);
}

static const Symbol *at(const Symbols *s, guint i)
{
    return &g_array_index(s->sym, Symbol, i);
}

/* ---- reading files ---- */

static bool bad(const char *path, GError **err, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
static bool bad(const char *path, GError **err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "symbols '%s': %s", path, text);
    return false;
}

static bool is_elf(const char *data, gsize size)
{
    return size >= EI_NIDENT && !memcmp(data, ELFMAG, SELFMAG);
}

typedef struct Section {
    uint32_t type, link;
    uint64_t flags, offset, size;
} Section;

typedef struct ElfFile {
    const char *data;
    gsize size;
    bool is64;
    uint64_t shoff;
    unsigned shentsize, shnum;
} ElfFile;

static bool elf_open(ElfFile *e, const char *path, GError **err)
{
    bool is64 = e->data[EI_CLASS] == ELFCLASS64;
    if (e->data[EI_DATA] != ELFDATA2LSB || (!is64 && e->data[EI_CLASS] != ELFCLASS32) ||
        e->size < (is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr)))
        return bad(path, err, "no ELF file of an x86 machine");
    e->is64 = is64;
    if (is64) {
        Elf64_Ehdr h;
        memcpy(&h, e->data, sizeof(h));
        e->shoff = h.e_shoff;
        e->shentsize = h.e_shentsize;
        e->shnum = h.e_shnum;
    } else {
        Elf32_Ehdr h;
        memcpy(&h, e->data, sizeof(h));
        e->shoff = h.e_shoff;
        e->shentsize = h.e_shentsize;
        e->shnum = h.e_shnum;
    }
    if (!e->shnum)
        return bad(path, err, "it has no sections, so no symbol table");
    if (e->shentsize < (is64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr)) || e->shoff > e->size ||
        (uint64_t)e->shentsize * e->shnum > e->size - e->shoff)
        return bad(path, err, "truncated: its section headers are not all there");
    return true;
}

/* False: no such section, or its bytes are not in the file. */
static bool elf_section(const ElfFile *e, unsigned i, Section *s)
{
    if (i >= e->shnum)
        return false;
    const char *p = e->data + e->shoff + (uint64_t)i * e->shentsize;
    if (e->is64) {
        Elf64_Shdr h;
        memcpy(&h, p, sizeof(h));
        *s = (Section){h.sh_type, h.sh_link, h.sh_flags, h.sh_offset, h.sh_size};
    } else {
        Elf32_Shdr h;
        memcpy(&h, p, sizeof(h));
        *s = (Section){h.sh_type, h.sh_link, h.sh_flags, h.sh_offset, h.sh_size};
    }
    return s->type == SHT_NOBITS || (s->offset <= e->size && s->size <= e->size - s->offset);
}

static void elf_symbol(const ElfFile *e, const Section *tab, const Section *str, uint64_t i,
                       GArray *out)
{
    Elf64_Sym sym;
    if (e->is64) {
        memcpy(&sym, e->data + tab->offset + i * sizeof(sym), sizeof(sym));
    } else {
        Elf32_Sym s;
        memcpy(&s, e->data + tab->offset + i * sizeof(s), sizeof(s));
        sym = (Elf64_Sym){s.st_name, s.st_info, s.st_other, s.st_shndx, s.st_value, s.st_size};
    }
    unsigned type = ELF64_ST_TYPE(sym.st_info);
    const char *name = e->data + str->offset + sym.st_name;
    Section in = {0};
    if (sym.st_name >= str->size || !*name || !memchr(name, 0, str->size - sym.st_name) ||
        type > STT_FUNC || sym.st_shndx == SHN_UNDEF || sym.st_shndx == SHN_ABS)
        return;
    bool code = type == STT_FUNC || (type == STT_NOTYPE && elf_section(e, sym.st_shndx, &in) &&
                                     in.flags & SHF_EXECINSTR);
    Symbol add = {sym.st_value, sym.st_size, g_strdup(name), code,
                  ELF64_ST_BIND(sym.st_info) == STB_GLOBAL};
    g_array_append_val(out, add);
}

static bool read_elf(const char *path, const char *data, gsize size, GArray *out, GError **err)
{
    ElfFile e = {.data = data, .size = size};
    if (!elf_open(&e, path, err))
        return false;
    for (unsigned i = 0; i < e.shnum; i++) {
        Section tab, str;
        if (!elf_section(&e, i, &tab) || tab.type != SHT_SYMTAB)
            continue;
        if (!elf_section(&e, tab.link, &str) || str.type != SHT_STRTAB)
            return bad(path, err, "its symbol table has no names");
        uint64_t each = e.is64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
        for (uint64_t n = 0; n < tab.size / each; n++)
            elf_symbol(&e, &tab, &str, n, out);
    }
    return out->len || bad(path, err, "it has no symbol table (stripped?)");
}

/* "ffffffff81000000 T _text", and in /proc/kallsyms "\t[module]" behind it. */
static bool map_line(const char *p, const char *end, Symbol *s)
{
    char *after;
    g_autofree char *line = g_strndup(p, (gsize)(end - p));
    s->addr = g_ascii_strtoull(line, &after, 16);
    if (after == line || *after != ' ' || !g_ascii_isalpha(after[1]) || after[2] != ' ')
        return false;
    char type = after[1], *name = after + 3;
    size_t len = strcspn(name, " \t\r");
    const char *rest = name + len + strspn(name + len, " \t\r");
    if (!len || (*rest && *rest != '['))
        return false;
    s->size = 0;
    s->name = g_strndup(name, len);
    s->code = strchr("TtWw", type) != NULL;
    s->global = g_ascii_isupper(type);
    if (g_ascii_toupper(type) == 'A')
        g_clear_pointer(&s->name, g_free); /* a number, not a place */
    return true;
}

static bool read_map(const char *path, const char *data, gsize size, GArray *out, GError **err)
{
    bool any_address = false;
    unsigned n = 1;
    for (const char *p = data, *end = data + size; p < end; n++) {
        size_t left = MIN_OF((size_t)(end - p), LINE_MAX_BYTES);
        const char *eol = memchr(p, '\n', left);
        bool whole = eol || p + left == end;
        eol = eol ? eol : p + left;
        Symbol s = {0};
        if (!whole || (eol > p && !map_line(p, eol, &s)))
            return bad(path, err,
                       "line %u is not 'ADDRESS TYPE NAME', as in a System.map or /proc/kallsyms%s",
                       n,
                       n == 1 && g_strstr_len(p, eol - p, "real System.map")
                           ? "; this one is Debian's placeholder: a kernel's real one is in its "
                             "-dbg package, or read /proc/kallsyms in the guest as root"
                           : "");
        any_address |= s.addr != 0;
        if (s.name)
            g_array_append_val(out, s);
        p = eol + 1;
    }
    if (!out->len)
        return bad(path, err, "there are no symbols in it");
    return any_address ||
           bad(path, err, "every address is 0: /proc/kallsyms shows them only to root");
}

/* ---- putting together ---- */

static gint by_address(gconstpointer pa, gconstpointer pb)
{
    const Symbol *a = pa, *b = pb;
    if (a->addr != b->addr)
        return a->addr < b->addr ? -1 : 1;
    if (a->code != b->code)
        return a->code ? -1 : 1;
    if (a->global != b->global)
        return a->global ? -1 : 1;
    if (!a->size != !b->size)
        return a->size ? -1 : 1;
    return strcmp(a->name, b->name);
}

static bool read_file(Symbols *s, const char *path, bool only_elf, GError **err)
{
    g_autoptr(GMappedFile) file = NULL;
    GError *why = NULL;
    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        return bad(path, err, "there is no such file");
    if (g_file_test(path, G_FILE_TEST_IS_DIR))
        return bad(path, err, "is a folder");
    if (!g_file_test(path, G_FILE_TEST_IS_REGULAR))
        return bad(path, err, "not a regular file");
    file = g_mapped_file_new(path, FALSE, &why);
    if (!file) {
        bad(path, err, "%s", why->message);
        g_error_free(why);
        return false;
    }
    const char *data = g_mapped_file_get_contents(file);
    gsize size = g_mapped_file_get_length(file);
    bool elf = data && is_elf(data, size);
    GArray *add = new_list();
    bool ok = elf        ? read_elf(path, data, size, add, err)
              : only_elf ? false
                         : read_map(path, data ? data : "", size, add, err);
    if (ok) {
        g_array_append_vals(s->sym, add->data, add->len);
        g_array_set_clear_func(add, NULL); /* the names have moved */
        g_array_sort(s->sym, by_address);
        g_hash_table_remove_all(s->by_name);
        for (guint i = 0; i < s->sym->len; i++) {
            if (!g_hash_table_contains(s->by_name, at(s, i)->name))
                g_hash_table_insert(s->by_name, at(s, i)->name, GUINT_TO_POINTER(i));
        }
    }
    g_array_unref(add);
    return ok;
}

bool symbols_add_file(Symbols *s, const char *path, GError **err)
{
    return read_file(s, path, false, err);
}

void symbols_add_kernel(Symbols *s, const char *path)
{
    read_file(s, path, true, NULL);
}

bool symbols_add_option(Symbols *s, const char *arg, GError **err)
{
    static const char key[] = "offset=";
    const char *comma = strrchr(arg, ',');
    if (!comma)
        return symbols_add_file(s, arg, err);
    char *end;
    const char *value = comma + 1 + strlen(key);
    if (!g_str_has_prefix(comma + 1, key)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-symbols %s: no property '%s'; there is offset",
                    arg, comma + 1);
        return false;
    }
    bool minus = *value == '-';
    uint64_t n = g_ascii_strtoull(value + minus, &end, 0);
    if (end == value + minus || *end) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-symbols %s: '%s' is not a number", arg, value);
        return false;
    }
    symbols_set_offset(s, (int64_t)(minus ? -n : n));
    g_autofree char *path = g_strndup(arg, (gsize)(comma - arg));
    return symbols_add_file(s, path, err);
}

/* ---- looking up ---- */

unsigned symbols_count(const Symbols *s)
{
    return s ? s->sym->len : 0;
}

int64_t symbols_offset(const Symbols *s)
{
    return s ? atomic_load_explicit(&s->offset, memory_order_relaxed) : 0;
}

void symbols_set_offset(Symbols *s, int64_t offset)
{
    atomic_store_explicit(&s->offset, offset, memory_order_relaxed);
}

/* Bytes that belong to symbol i. */
static uint64_t size_of(const Symbols *s, guint i)
{
    const Symbol *sym = at(s, i);
    if (sym->size)
        return sym->size;
    for (guint j = i + 1; j < s->sym->len; j++) {
        if (at(s, j)->addr != sym->addr)
            return at(s, j)->addr - sym->addr;
    }
    return LAST_REACH;
}

bool symbols_find(const Symbols *s, const char *name, uint64_t *addr, uint64_t *size)
{
    gpointer i;
    if (!s || !g_hash_table_lookup_extended(s->by_name, name, NULL, &i))
        return false;
    *addr = at(s, GPOINTER_TO_UINT(i))->addr + (uint64_t)symbols_offset(s);
    if (size)
        *size = size_of(s, GPOINTER_TO_UINT(i));
    return true;
}

const char *symbols_nearest(const Symbols *s, const char *name)
{
    Nearest near = {.typed = name};
    for (guint i = 0; s && i < s->sym->len; i++)
        nearest_offer(&near, at(s, i)->name);
    return near.best;
}

const char *symbols_at(const Symbols *s, uint64_t addr, uint64_t *offset)
{
    if (!s)
        return NULL;
    addr -= (uint64_t)symbols_offset(s);
    guint low = 0, high = s->sym->len;
    while (low < high) { /* the first one above addr */
        guint mid = low + (high - low) / 2;
        if (at(s, mid)->addr <= addr)
            low = mid + 1;
        else
            high = mid;
    }
    const Symbol *best = NULL;
    for (guint i = low; i-- > 0;) {
        const Symbol *sym = at(s, i);
        if (best && sym->addr != best->addr)
            break;
        /* A label in the middle of a function may lie between. */
        if (sym->code && addr - sym->addr < size_of(s, i))
            best = sym;
        else if (!best && low - i > 64)
            break;
    }
    if (best)
        *offset = addr - best->addr;
    return best ? best->name : NULL;
}

void symbols_each(const Symbols *s,
                  void (*fn)(const char *name, uint64_t addr, uint64_t size, void *opaque),
                  void *opaque)
{
    for (guint i = 0; s && i < s->sym->len; i++) {
        if (at(s, i)->code)
            fn(at(s, i)->name, at(s, i)->addr + (uint64_t)symbols_offset(s), size_of(s, i), opaque);
    }
}

const char *symbols_text(const Symbols *s, uint64_t addr, char buf[SYMBOL_TEXT])
{
    uint64_t offset = 0;
    const char *name = symbols_at(s, addr, &offset);
    if (!name)
        buf[0] = 0;
    else if (offset)
        g_snprintf(buf, SYMBOL_TEXT, "%.128s+0x%" G_GINT64_MODIFIER "x", name, offset);
    else
        g_snprintf(buf, SYMBOL_TEXT, "%.128s", name);
    return buf;
}

const char *symbols_note(const Symbols *s, uint64_t addr, char buf[SYMBOL_TEXT])
{
    char text[SYMBOL_TEXT];
    if (*symbols_text(s, addr, text))
        g_snprintf(buf, SYMBOL_TEXT, " (%.150s)", text);
    else
        buf[0] = 0;
    return buf;
}
