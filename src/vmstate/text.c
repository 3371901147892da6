#include "vmstate/text.h"

#include <string.h>

#include "base/log.h"
#include "vmstate/state.h"

enum { VALUE_MAX = sizeof(VecReg) };

void hex_write(const void *p, size_t n, GString *out)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++)
        g_string_append_printf(out, "%02x", b[i]);
}

bool hex_read(const char *text, void *out, size_t n)
{
    uint8_t *b = out;
    for (size_t i = 0; i < n; i++) {
        int hi = g_ascii_xdigit_value(text[2 * i]);
        int lo = hi < 0 ? -1 : g_ascii_xdigit_value(text[2 * i + 1]);
        if (lo < 0)
            return false;
        b[i] = (uint8_t)(hi << 4 | lo);
    }
    return !text[2 * n];
}

/* Value bytes without padding; returns how many. */
static size_t pack(const CpuState *s, const VmstateField *f, uint8_t out[VALUE_MAX])
{
    static const uint8_t size[] = {
        [VMSTATE_U8] = 1,     [VMSTATE_U16] = 2,     [VMSTATE_U32] = 4,
        [VMSTATE_U64] = 8,    [VMSTATE_BOOL] = 1,    [VMSTATE_SEGMENT] = 18,
        [VMSTATE_TABLE] = 10, [VMSTATE_VECREG] = 64, [VMSTATE_FPREG] = 10,
    };
    const uint8_t *p = (const uint8_t *)s + f->offset;
    if (f->type == VMSTATE_SEGMENT) {
        const Segment *g = (const Segment *)(const void *)p;
        memcpy(out, &g->base, 8);
        memcpy(out + 8, &g->limit, 4);
        memcpy(out + 12, &g->attr, 4);
        memcpy(out + 16, &g->selector, 2);
    } else if (f->type == VMSTATE_TABLE) {
        const DescTable *t = (const DescTable *)(const void *)p;
        memcpy(out, &t->base, 8);
        memcpy(out + 8, &t->limit, 2);
    } else {
        memcpy(out, p, size[f->type]);
    }
    return size[f->type];
}

static bool unpack(CpuState *s, const VmstateField *f, const uint8_t *in, size_t n)
{
    uint8_t *p = (uint8_t *)s + f->offset;
    uint32_t run_state;
    switch (f->type) {
    case VMSTATE_SEGMENT: {
        Segment *g = (Segment *)(void *)p;
        memcpy(&g->base, in, 8);
        memcpy(&g->limit, in + 8, 4);
        memcpy(&g->attr, in + 12, 4);
        memcpy(&g->selector, in + 16, 2);
        return true;
    }
    case VMSTATE_TABLE: {
        DescTable *t = (DescTable *)(void *)p;
        memcpy(&t->base, in, 8);
        memcpy(&t->limit, in + 8, 2);
        return true;
    }
    case VMSTATE_BOOL:
        if (in[0] > 1)
            return false;
        break;
    default:
        break;
    }
    if (f->offset == offsetof(CpuState, run_state)) {
        memcpy(&run_state, in, sizeof(run_state));
        if (run_state > RUN_MWAIT)
            return false;
    }
    if (f->offset == offsetof(CpuState, cpl) && in[0] > 3)
        return false;
    memcpy(p, in, n);
    return true;
}

typedef struct Writer {
    const CpuState *s;
    const char *prefix;
    GString *out;
} Writer;

static void write_field(const VmstateField *f, void *opaque)
{
    static const uint8_t zeros[VALUE_MAX];
    Writer *w = opaque;
    uint8_t value[VALUE_MAX];
    size_t n = pack(w->s, f, value);
    if (!memcmp(value, zeros, n))
        return;
    g_string_append_printf(w->out, "%s%s ", w->prefix, f->name);
    hex_write(value, n, w->out);
    g_string_append_c(w->out, '\n');
}

void vmstate_write_text(const CpuState *s, const char *prefix, GString *out)
{
    Writer w = {s, prefix, out};
    vmstate_foreach(~0u, write_field, &w);
}

bool vmstate_read_text(CpuState *s, const char *line, GError **err)
{
    const char *space = strrchr(line, ' ');
    g_autofree char *name = space ? g_strndup(line, (gsize)(space - line)) : g_strdup(line);
    const VmstateField *f = vmstate_field(name);
    uint8_t value[VALUE_MAX];
    if (!f || !space) {
        g_set_error(err, TANDEM_ERROR, ERR_STATE, "no state field '%s' with a value", name);
        return false;
    }
    size_t n = pack(s, f, value);
    if (hex_read(space + 1, value, n) && unpack(s, f, value, n))
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_STATE, "%s cannot be '%s'", name, space + 1);
    return false;
}
