/* What two decoders say of the same bytes, held against each other. */
#include <string.h>

#include "diff/decode.h"

const char *const disagreement_name[DIS_N] = {
    [DIS_NONE] = "agree",    [DIS_TANDEM_UD] = "tandem #UD", [DIS_OTHER_UD] = "other #UD",
    [DIS_LENGTH] = "length", [DIS_NAME] = "mnemonic",        [DIS_OPERAND] = "operand",
};

/* ---- names ---- */

static const struct {
    const char *ours, *theirs;
} alias[] = {
#define NAME(ours, theirs) {ours, theirs},
#include "diff/decode_names.def"
#undef NAME
};

static bool in_list(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; p; p = strchr(p, ' ')) {
        p += *p == ' ';
        if (strcspn(p, " ") == n && !memcmp(p, word, n))
            return true;
    }
    return false;
}

static bool same_name(const char *ours, const char *theirs)
{
    static const char *const prefix[] = {"rep ",  "repe ", "repz ",     "repne ",    "repnz ",
                                         "lock ", "bnd ",  "xacquire ", "xrelease ", "notrack "};
    for (unsigned k = 0; k < ARRAY_LEN(prefix); k++) {
        if (g_str_has_prefix(theirs, prefix[k])) {
            theirs += strlen(prefix[k]);
            k = (unsigned)-1; /* from the first again */
        }
    }
    size_t n = strlen(ours), m = strlen(theirs);
    if (!strcmp(ours, theirs))
        return true;
    if (!strncmp(ours, theirs, n)) {
        const char *more = theirs + n;
        if (!strcmp(more, "64") || (strchr("bwdq", *more) && !more[1]))
            return true;
    }
    /* Segment pushes and pops carry the register in our name. */
    if (!strncmp(ours, theirs, m) && ours[m] == ' ')
        return true;
    for (unsigned k = 0; k < ARRAY_LEN(alias); k++)
        if (!strcmp(alias[k].ours, ours) && in_list(alias[k].theirs, theirs))
            return true;
    return false;
}

/* ---- operands ---- */

static uint64_t low(int64_t v, unsigned bytes)
{
    return bytes >= 8 || !bytes ? (uint64_t)v : (uint64_t)v & ((1ull << bytes * 8) - 1);
}

static const char *reg_differs(const DecReg *a, const DecReg *b)
{
    if (a->cls != b->cls)
        return "register class";
    if (a->num != b->num)
        return "register";
    return a->size && b->size && a->size != b->size ? "register size" : NULL;
}

static const char *memory_differs(const DecOperand *a, const DecOperand *b)
{
    if (reg_differs(&a->base, &b->base))
        return "base";
    if (reg_differs(&a->idx, &b->idx))
        return "index";
    if (a->scale != b->scale)
        return "scale";
    if (a->seg != b->seg)
        return "segment";
    /* Addresses wrap at the address size. */
    return low(a->value, a->size) != low(b->value, a->size) ? "displacement" : NULL;
}

static const char *operand_differs(const DecOperand *a, const DecOperand *b)
{
    if (a->kind != b->kind)
        return "kind";
    switch (a->kind) {
    case DK_REG:
        return reg_differs(&a->reg, &b->reg);
    case DK_MEM:
        return memory_differs(a, b);
    case DK_FAR:
        return a->selector != b->selector || a->value != b->value ? "far pointer" : NULL;
    default:
        return low(a->value, a->size) != low(b->value, a->size) ? "immediate" : NULL;
    }
}

/* Something that an opcode can mean without a byte for it: the accumulator, CL, DX, XMM0, a stack
 * or segment register, the operands of string instructions, the 1 of shifts, the 3 of INT3. And the
 * mask of EVEX, which is no operand here. */
static bool implied(const DecOperand *o)
{
    if (o->kind == DK_REG && o->reg.cls == DR_MASK)
        return true;
    if (o->encoded)
        return false;
    switch (o->kind) {
    case DK_REG:
        return (o->reg.cls == DR_GPR && o->reg.num <= RDX) || o->reg.cls == DR_ST ||
               o->reg.cls == DR_SEG || (o->reg.cls == DR_VEC && !o->reg.num);
    case DK_MEM:
        return (o->base.num == RSI || o->base.num == RDI || o->base.num == RBX) && !o->value;
    default:
        return o->kind == DK_IMM && (o->value == 1 || o->value == 3);
    }
}

static Disagreement operands(const Decoded *tandem, const Decoded *other)
{
    Disagreement d = {DIS_NONE, ""};
    unsigned at = 0;
    for (unsigned k = 0; k < tandem->n; k++) {
        const char *what = "missing", *first = NULL;
        for (unsigned e = at; e < other->n; e++) {
            what = operand_differs(&tandem->op[k], &other->op[e]);
            first = first ? first : what;
            if (!what) {
                at = e + 1;
                break;
            }
            if (!implied(&other->op[e]))
                break;
        }
        if (what) {
            d.kind = DIS_OPERAND;
            g_snprintf(d.what, sizeof(d.what), "operand %u: %s", k + 1, first ? first : what);
            return d;
        }
    }
    for (; at < other->n; at++) {
        if (!implied(&other->op[at])) {
            d.kind = DIS_OPERAND;
            g_snprintf(d.what, sizeof(d.what), "operand %u: one more", at + 1);
            return d;
        }
    }
    return d;
}

Disagreement decode_compare(const Decoded *tandem, const Decoded *other)
{
    if (!tandem->ok || !other->ok) {
        Disagreement d = {DIS_NONE, ""};
        if (tandem->ok != other->ok)
            d.kind = tandem->ok ? DIS_OTHER_UD : DIS_TANDEM_UD;
        return d;
    }
    if (tandem->len != other->len)
        return (Disagreement){DIS_LENGTH, ""};
    if (!same_name(tandem->name, other->name))
        return (Disagreement){DIS_NAME, ""};
    return operands(tandem, other);
}

/* ---- what the bytes are ---- */

void decode_context(DecContext *c)
{
    unsigned at = 0, legacy = 0, seen[4] = {0};
    const uint8_t *b = c->bytes;
    bool code64 = dec_code64(c->mode);
    uint8_t rex = 0;
    c->traits = 0;
    c->map = MAP_1B;
    for (; at < DECODE_BYTES - 4; at++) {
        unsigned bit = 0, group = 0;
        switch (b[at]) {
        case 0x66:
            bit = TRAIT_66;
            group = 2;
            break;
        case 0x67:
            bit = TRAIT_67;
            group = 3;
            break;
        case 0xf0:
            bit = TRAIT_LOCK;
            break;
        case 0xf2:
            bit = TRAIT_F2;
            break;
        case 0xf3:
            bit = TRAIT_F3;
            break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
        case 0x64:
        case 0x65:
            bit = TRAIT_SEG;
            group = 1;
            break;
        default:
            break;
        }
        bool is_rex = code64 && (b[at] & 0xf0) == 0x40;
        if (!bit && !is_rex)
            break;
        if (rex)
            c->traits |= TRAIT_LOST_REX;
        rex = is_rex ? b[at] : 0;
        if (code64 && bit == TRAIT_SEG && b[at] < 0x64)
            c->traits |= TRAIT_SEG64;
        if (bit && seen[group]++)
            c->traits |= TRAIT_REPEAT;
        if (bit && legacy++)
            c->traits |= TRAIT_SEVERAL;
        c->traits |= bit;
    }
    c->traits |= (rex ? TRAIT_REX : 0) | (rex & 8 ? TRAIT_REXW : 0) | (rex & 1 ? TRAIT_REXB : 0);
    bool escape = code64 || b[at + 1] >= 0xc0;
    if ((b[at] == 0xc4 || b[at] == 0xc5) && escape) {
        uint8_t last = b[at] == 0xc5 ? b[at + 1] : b[at + 2], map = b[at + 1] & 0x1f;
        if (rex)
            c->traits |= TRAIT_LOST_REX;
        c->traits |=
            TRAIT_VEX | (last & 4 ? TRAIT_VEXL : 0) | ((last & 0x78) != 0x78 ? TRAIT_VVVV : 0);
        if (b[at] == 0xc4 && (last & 0x80))
            c->traits |= TRAIT_VEXW;
        c->map = b[at] == 0xc5 ? MAP_VEX0F : map >= 1 && map <= 3 ? MAP_VEX0F + map - 1 : MAP_N;
        at += b[at] == 0xc5 ? 2 : 3;
    } else if (b[at] == 0x62 && escape) {
        unsigned map = b[at + 1] & 7;
        c->traits |= TRAIT_EVEX;
        c->map = map >= 1 && map <= 3 ? MAP_EVEX0F + map - 1 : MAP_N;
        at += 4;
    } else if (b[at] == 0x8f && (b[at + 1] & 0x1f) >= 8) {
        c->traits |= TRAIT_XOP;
        c->map = MAP_N;
        at += 3;
    } else if (b[at] == 0x0f) {
        at++;
        c->map = b[at] == 0x38 ? MAP_0F38 : b[at] == 0x3a ? MAP_0F3A : MAP_0F;
        at += c->map != MAP_0F;
    }
    c->opcode = at < DECODE_BYTES ? b[at] : 0;
    c->modrm = at + 1 < DECODE_BYTES ? b[at + 1] : 0;
    c->traits |= c->modrm < 0xc0 ? TRAIT_MEM : TRAIT_REG;
    if (c->modrm < 0xc0 && (c->modrm & 7) == 4)
        c->traits |= TRAIT_SIB;
}

/* ---- text ---- */

static void reg_text(const DecReg *r, GString *out)
{
    static const char *const gpr[] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    static const char *const seg[] = {"es", "cs", "ss", "ds", "fs", "gs", "seg6", "seg7"};
    static const char *const cls[] = {[DR_CR] = "cr",      [DR_DR] = "dr", [DR_MMX] = "mm",
                                      [DR_VEC] = "vector", [DR_ST] = "st", [DR_MASK] = "k"};
    switch (r->cls) {
    case DR_GPR:
        if (r->num >= 16)
            g_string_append_printf(out, "%ch", "acdb"[r->num & 3]);
        else if (r->num >= 8)
            g_string_append_printf(out, "r%u.%u", r->num, r->size);
        else if (r->size == 1)
            g_string_append_printf(out, r->num < 4 ? "%.1sl" : "%sl", gpr[r->num]);
        else
            g_string_append_printf(out, "%s%s",
                                   r->size == 8   ? "r"
                                   : r->size == 4 ? "e"
                                                  : "",
                                   gpr[r->num]);
        break;
    case DR_SEG:
        g_string_append(out, seg[r->num & 7]);
        break;
    case DR_IP:
        g_string_append(out, "ip");
        break;
    case DR_NONE:
    case DR_OTHER:
        g_string_append(out, "other");
        break;
    default:
        g_string_append_printf(out, "%s%u", cls[r->cls], r->num);
        break;
    }
}

static void memory_text(const DecOperand *o, GString *out)
{
    static const char *const seg[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    const char *plus = "";
    if (o->seg <= GS)
        g_string_append_printf(out, "%s:", seg[o->seg]);
    g_string_append_c(out, '[');
    if (o->base.cls) {
        reg_text(&o->base, out);
        plus = " + ";
    }
    if (o->idx.cls) {
        g_string_append(out, plus);
        reg_text(&o->idx, out);
        g_string_append_printf(out, "*%u", o->scale);
        plus = " + ";
    }
    if (o->value || !*plus)
        g_string_append_printf(out, "%s%#" G_GINT64_MODIFIER "x", plus, (uint64_t)o->value);
    g_string_append_c(out, ']');
}

void decoded_text(const Decoded *d, GString *out)
{
    g_string_append(out, d->name);
    for (unsigned k = 0; k < d->n; k++) {
        const DecOperand *o = &d->op[k];
        g_string_append(out, k ? ", " : " ");
        if (o->kind == DK_REG)
            reg_text(&o->reg, out);
        else if (o->kind == DK_MEM)
            memory_text(o, out);
        else if (o->kind == DK_FAR)
            g_string_append_printf(out, "%#x:%#" G_GINT64_MODIFIER "x", o->selector,
                                   (uint64_t)o->value);
        else
            g_string_append_printf(out, "%#" G_GINT64_MODIFIER "x", (uint64_t)o->value);
    }
}
