#include "vmstate/state.h"

#include <string.h>
#include "cpu/vcpu.h"

#define ROW(grp, nm, ty, member, index) \
    {.name = nm, .type = ty, .group = grp, .offset = offsetof(CpuState, member), .msr = index},

static const VmstateField fields[] = {
#define FIELD(group, id, name, ctype, member, place) \
    ROW(GRP_##group, name, VMSTATE_##ctype, member, 0)
#define FIELD_NK(group, id, name, ctype, member) ROW(GRP_##group, name, VMSTATE_##ctype, member, 0)
#define FIELD_BIT(group, id, name, member, place, mask) \
    ROW(GRP_##group, name, VMSTATE_BOOL, member, 0)
#define SEGMENT(group, id, name, index, place) \
    ROW(GRP_##group, name, VMSTATE_SEGMENT, seg[index], 0)
#define TABLE(group, id, name, member, place)   ROW(GRP_##group, name, VMSTATE_TABLE, member, 0)
#define VECREG(group, id, name, member)         ROW(GRP_##group, name, VMSTATE_VECREG, member, 0)
#define FPREG(group, id, name, member)          ROW(GRP_##group, name, VMSTATE_FPREG, member, 0)
#define FIELD_X(group, id, name, ctype, member) ROW(GRP_##group, name, VMSTATE_##ctype, member, 0)
#include "vmstate/fields.def"
#define MSR(index, id, member, name, policy, feature) \
    ROW(GRP_MSRS, name, VMSTATE_U64, member, index)
#include "vmstate/msrs.def"
};

static size_t field_bytes(enum VmstateType t)
{
    switch (t) {
    case VMSTATE_U8:
    case VMSTATE_BOOL:
        return 1;
    case VMSTATE_U16:
        return 2;
    case VMSTATE_U32:
        return 4;
    case VMSTATE_U64:
        return 8;
    case VMSTATE_VECREG:
        return sizeof(VecReg);
    case VMSTATE_FPREG:
        return 10;
    case VMSTATE_SEGMENT:
    case VMSTATE_TABLE:
        break; /* have padding: compared member by member */
    }
    return 0;
}

void vmstate_foreach(unsigned groups, VmstateFieldFn *fn, void *opaque)
{
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        if (fields[i].group & groups)
            fn(&fields[i], opaque);
    }
}

const VmstateField *vmstate_field(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        if (!strcmp(fields[i].name, name))
            return &fields[i];
    }
    return NULL;
}

static bool same(const CpuState *a, const CpuState *b, const VmstateField *f)
{
    const void *pa = (const char *)a + f->offset, *pb = (const char *)b + f->offset;
    if (f->type == VMSTATE_SEGMENT) {
        const Segment *x = pa, *y = pb;
        return x->base == y->base && x->limit == y->limit && x->attr == y->attr &&
               x->selector == y->selector;
    }
    if (f->type == VMSTATE_TABLE) {
        const DescTable *x = pa, *y = pb;
        return x->base == y->base && x->limit == y->limit;
    }
    return !memcmp(pa, pb, field_bytes(f->type));
}

void vmstate_print(const CpuState *s, const VmstateField *f, char *buf, size_t size)
{
    const void *p = (const char *)s + f->offset;
    switch (f->type) {
    case VMSTATE_SEGMENT: {
        const Segment *g = p;
        g_snprintf(buf, (gulong)size, "%04x base %#" G_GINT64_MODIFIER "x limit %#x attr %#x",
                   g->selector, g->base, g->limit, g->attr);
        break;
    }
    case VMSTATE_TABLE: {
        const DescTable *t = p;
        g_snprintf(buf, (gulong)size, "base %#" G_GINT64_MODIFIER "x limit %#x", t->base, t->limit);
        break;
    }
    case VMSTATE_VECREG:
    case VMSTATE_FPREG: {
        const uint8_t *b = p;
        size_t n = field_bytes(f->type), at = 0;
        while (n > 16 && !b[n - 1]) /* a vector register at its used width */
            n--;
        g_strlcpy(buf, "0x", size);
        for (at = 2; n-- && at + 2 < size; at += 2)
            g_snprintf(buf + at, (gulong)(size - at), "%02x", b[n]);
        break;
    }
    default: {
        uint64_t v = 0;
        memcpy(&v, p, field_bytes(f->type));
        g_snprintf(buf, (gulong)size, "%#" G_GINT64_MODIFIER "x", v);
        break;
    }
    }
}

unsigned vmstate_diff(const CpuState *a, const CpuState *b, unsigned groups, VmstateDiffFn *fn,
                      void *opaque)
{
    unsigned n = 0;
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        const VmstateField *f = &fields[i];
        if (!(f->group & groups) || same(a, b, f))
            continue;
        n++;
        if (fn) {
            char va[140], vb[140];
            vmstate_print(a, f, va, sizeof(va));
            vmstate_print(b, f, vb, sizeof(vb));
            fn(f, va, vb, opaque);
        }
    }
    return n;
}
