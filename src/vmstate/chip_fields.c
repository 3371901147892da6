#include "vmstate/chip_fields.h"

#include <string.h>

#include "base/log.h"
#include "vmstate/text.h"

typedef struct ChipField {
    const char *group, *name;
    uint16_t offset; /* in ChipView */
    uint8_t size;
} ChipField;

#define ROW(group, name, member) \
    {group, name, offsetof(ChipView, member), sizeof(((ChipView *)NULL)->member)},

static const ChipField fields[] = {
#define LAPIC(id, name, member, register) ROW("lapic", "LAPIC." name, lapic.member)
#define LAPIC_NK(id, name, member)        ROW("lapic", "LAPIC." name, lapic.member)
#define IOAPIC(id, name, member, place)   ROW("ioapic", "IOAPIC." name, chips.ioapic.member)
#define PIC(id, name, member, place)      ROW("pic0", "PIC0." name, chips.pic[0].member)
#define PIC_NK(id, name, member)          ROW("pic0", "PIC0." name, chips.pic[0].member)
#define PIT(id, name, member)             ROW("pit", "PIT." name, pit.member)
#define PIT_COUNTER(id, name, member)         \
    ROW("pit", "PIT0." name, pit.c[0].member) \
    ROW("pit", "PIT1." name, pit.c[1].member) \
    ROW("pit", "PIT2." name, pit.c[2].member)
#include "vmstate/chips.def"
#define PIC(id, name, member, place) ROW("pic1", "PIC1." name, chips.pic[1].member)
#define PIC_NK(id, name, member)     ROW("pic1", "PIC1." name, chips.pic[1].member)
#include "vmstate/chips.def"
};

static uint64_t get(const ChipView *v, const ChipField *f)
{
    uint64_t value = 0;
    memcpy(&value, (const uint8_t *)v + f->offset, f->size);
    return value;
}

unsigned chips_diff(const ChipView *a, const ChipView *b, ChipDiffFn *fn, void *opaque)
{
    unsigned n = 0;
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        uint64_t va = get(a, &fields[i]), vb = get(b, &fields[i]);
        if (va == vb)
            continue;
        n++;
        fn(fields[i].group, fields[i].name, va, vb, opaque);
    }
    return n;
}

void chips_write_text(const ChipView *v, GString *out)
{
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        if (!get(v, &fields[i]))
            continue;
        g_string_append_printf(out, "%s ", fields[i].name);
        hex_write((const uint8_t *)v + fields[i].offset, fields[i].size, out);
        g_string_append_c(out, '\n');
    }
}

bool chips_read_text(ChipView *v, const char *line, bool *known, GError **err)
{
    const char *space = strrchr(line, ' ');
    size_t n = space ? (size_t)(space - line) : strlen(line);
    *known = false;
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        const ChipField *f = &fields[i];
        if (strlen(f->name) != n || strncmp(f->name, line, n) != 0)
            continue;
        *known = true;
        if (space && hex_read(space + 1, (uint8_t *)v + f->offset, f->size))
            return true;
        g_set_error(err, TANDEM_ERROR, ERR_STATE, "%s cannot be '%s'", f->name,
                    space ? space + 1 : "");
        return false;
    }
    return true;
}
