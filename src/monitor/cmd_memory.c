/* x, xp, memsave and pmemsave: memory as numbers, characters or instructions, and into files; print
 * and gva2gpa. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "cpu/disasm.h"
#include "monitor/monitor_priv.h"
#include "switch/vcpu_loop.h"
#include "tcg/tcg.h"
#include "vmstate/state.h"

#define X64       "%016" G_GINT64_MODIFIER "x"
#define COUNT_MAX 65536
#define INSN_MAX  15

/* ---- arguments ---- */

typedef struct RegWork {
    const VmstateField *field;
    uint64_t value;
} RegWork;

static void read_reg(Vcpu *v, void *opaque)
{
    RegWork *w = opaque;
    const uint8_t *p = (const uint8_t *)&v->st + w->field->offset;
    static const uint8_t size[] = {[VMSTATE_U8] = 1,
                                   [VMSTATE_U16] = 2,
                                   [VMSTATE_U32] = 4,
                                   [VMSTATE_U64] = 8,
                                   [VMSTATE_BOOL] = 1};
    if (w->field->type == VMSTATE_SEGMENT) {
        Segment s;
        memcpy(&s, p, sizeof(s));
        w->value = s.base;
    } else if (w->field->type == VMSTATE_TABLE) {
        DescTable t;
        memcpy(&t, p, sizeof(t));
        w->value = t.base;
    } else {
        w->value = 0;
        memcpy(&w->value, p, size[w->field->type]);
    }
}

/* $pc is linear, as x wants it; $rip is the register. */
static void read_pc(Vcpu *v, void *opaque)
{
    RegWork *w = opaque;
    w->value = v->st.rip + (cpu_code64(&v->st) ? 0 : v->st.seg[CS].base);
}

static bool reg(MonState *mon, const char *name, uint64_t *value, GString *why)
{
    g_autofree char *upper = g_ascii_strup(name, -1);
    bool pc = !strcmp(upper, "PC");
    RegWork w = {.field = vmstate_field(pc ? "RIP" : !strcmp(upper, "SP") ? "RSP" : upper)};
    if (!w.field || w.field->type > VMSTATE_TABLE) {
        g_string_append_printf(why, "there is no register $%s with a number in it", name);
        return false;
    }
    if (!mon->m || !monitor_with_state(monitor_vcpu(mon), pc ? read_pc : read_reg, &w, why))
        return false;
    *value = w.value;
    return true;
}

static bool symbol(MonState *mon, const char *name, uint64_t *addr)
{
    return mon->m && symbols_find(machine_symbols(mon->m), name, addr, NULL);
}

static void no_address(MonState *mon, const char *word, GString *why)
{
    const char *near = mon->m ? symbols_nearest(machine_symbols(mon->m), word) : NULL;
    g_string_append_printf(
        why, near ? "'%s' is not an address; did you mean '%s'?" : "'%s' is not an address", word,
        near);
}

bool monitor_expression(MonState *mon, const char *text, uint64_t *value, GString *why)
{
    bool minus = false;
    *value = 0;
    for (const char *p = text;;) {
        uint64_t term;
        p += strspn(p, " ");
        size_t len = strcspn(p, " +-");
        g_autofree char *word = g_strndup(p, len);
        if (*word == '$') {
            if (!reg(mon, word + 1, &term, why))
                return false;
        } else {
            char *end;
            term = g_ascii_strtoull(word, &end, 0);
            if ((end == word || *end) && !symbol(mon, word, &term)) {
                no_address(mon, *word ? word : text, why);
                return false;
            }
        }
        *value = minus ? *value - term : *value + term;
        p += len;
        p += strspn(p, " ");
        if (!*p)
            return true;
        if (*p != '+' && *p != '-') {
            g_string_append_printf(why, "'%s' is not an address", text);
            return false;
        }
        minus = *p++ == '-';
    }
}

bool monitor_format(const char *text, MonFormat *f, GString *why)
{
    const char *p = text + 1;
    char *end;
    f->count = 1;
    if (g_ascii_isdigit(*p)) {
        uint64_t n = g_ascii_strtoull(p, &end, 10);
        if (!n || n > COUNT_MAX) {
            g_string_append_printf(why, "%s: from 1 to %u items are possible", text, COUNT_MAX);
            return false;
        }
        f->count = (unsigned)n;
        p = end;
    }
    for (; *p; p++) {
        static const char sizes[] = "bhwg";
        const char *s = strchr(sizes, *p);
        if (s) {
            f->size = 1u << (s - sizes);
        } else if (strchr("xduoci", *p)) {
            f->format = *p;
            if (*p == 'c')
                f->size = 1;
        } else {
            g_string_append_printf(
                why, "%s: '%c' is neither a format (x d u o c i) nor a size (b h w g)", text, *p);
            return false;
        }
    }
    return true;
}

/* ---- reading ---- */

typedef struct Dump {
    MonCall *c;
    bool physical;
    uint64_t addr;
    /* memsave: */
    uint64_t size, zeros;
    int fd, error;
} Dump;

/* As many of len bytes as can be read. Only RAM and ROM: a device would notice. */
static size_t fetch(Vcpu *v, const Dump *d, uint64_t addr, uint8_t *buf, size_t len)
{
    size_t done = 0;
    while (done < len) {
        gpa_t gpa = addr + done;
        size_t n = MIN_OF(len - done, 4096 - (size_t)(gpa & 4095));
        if (!d->physical && !mmu_debug_translate(&v->st, v->vm, addr + done, &gpa))
            break;
        if (!memmap_read(v->vm->mem, gpa, buf + done, n))
            break;
        done += n;
    }
    return done;
}

static void no_access(const Dump *d, uint64_t addr)
{
    g_string_append_printf(d->c->out, "no memory at %s address 0x" X64 "\n",
                           d->physical ? "physical" : "linear", addr);
}

static void item(GString *out, const MonFormat *f, uint64_t v)
{
    static const uint8_t hex[] = {0, 2, 4, 0, 8, 0, 0, 0, 16},
                         oct[] = {0, 3, 6, 0, 11, 0, 0, 0, 22},
                         dec[] = {0, 3, 5, 0, 10, 0, 0, 0, 20};
    int64_t s = (int64_t)(v << (64 - f->size * 8)) >> (64 - f->size * 8);
    switch (f->format) {
    case 'd':
        g_string_append_printf(out, " %*" G_GINT64_FORMAT, dec[f->size] + 1, s);
        break;
    case 'u':
        g_string_append_printf(out, " %*" G_GUINT64_FORMAT, dec[f->size], v);
        break;
    case 'o':
        g_string_append_printf(out, " 0%0*" G_GINT64_MODIFIER "o", oct[f->size], v);
        break;
    case 'c':
        if (v >= ' ' && v < 0x7f)
            g_string_append_printf(out, " '%c'", (char)v);
        else
            g_string_append_printf(out, " '\\x%02x'", (unsigned)v);
        break;
    default:
        g_string_append_printf(out, " 0x%0*" G_GINT64_MODIFIER "x", hex[f->size], v);
    }
}

static void dump_numbers(Vcpu *v, const Dump *d)
{
    const MonFormat *f = &d->c->format;
    GString *out = d->c->out;
    unsigned per_line = f->format == 'c' ? 8 : 16 / f->size;
    uint64_t a = d->addr;
    for (unsigned i = 0; i < f->count; i++, a += f->size) {
        uint64_t value = 0;
        bool ok = fetch(v, d, a, (uint8_t *)&value, f->size) == f->size;
        if (i % per_line == 0 && ok)
            g_string_append_printf(out, X64 ":", a);
        if (!ok) {
            if (i % per_line)
                g_string_append_c(out, '\n');
            no_access(d, a);
            return;
        }
        item(out, f, value);
        if (i % per_line == per_line - 1 || i + 1 == f->count)
            g_string_append_c(out, '\n');
    }
}

static void dump_insns(Vcpu *v, const Dump *d)
{
    const CpuState *s = &v->st;
    GString *out = d->c->out;
    unsigned bits = cpu_code64(s) ? 64 : s->seg[CS].attr & SEG_DB ? 32 : 16;
    uint64_t a = d->addr;
    for (unsigned i = 0; i < d->c->format.count; i++) {
        uint8_t buf[INSN_MAX];
        size_t n = fetch(v, d, a, buf, sizeof(buf));
        char text[DISASM_TEXT];
        if (!n) {
            no_access(d, a);
            break;
        }
        size_t got = disasm_insn(bits, buf, n, a, text), len = got ? got : 1;
        char at[SYMBOL_TEXT];
        if (*symbols_text(machine_symbols(d->c->m), a, at) && (!i || !strchr(at, '+')))
            g_string_append_printf(out, "%s:\n", at);
        g_string_append_printf(out, "0x" X64 ": ", a);
        for (size_t b = 0; b < len; b++)
            g_string_append_printf(out, " %02x", buf[b]);
        g_string_append_printf(out, "%*s", len < 10 ? (int)(10 - len) * 3 + 1 : 1, "");
        g_string_append_printf(out, "%s\n", text);
        a += len;
    }
}

static void dump_work(Vcpu *v, void *opaque)
{
    const Dump *d = opaque;
    if (d->c->format.format == 'i')
        dump_insns(v, d);
    else
        dump_numbers(v, d);
}

static void show(MonCall *c, bool physical)
{
    Dump d = {.c = c, .physical = physical, .addr = (uint64_t)c->number[1]};
    c->mon->last = c->format;
    c->mon->last.count = 1;
    monitor_with_state(monitor_vcpu(c->mon), dump_work, &d, c->out);
}

void cmd_x(MonCall *c)
{
    show(c, false);
}

void cmd_xp(MonCall *c)
{
    show(c, true);
}

/* ---- into files ---- */

/* Bytes from addr to where memory begins again; 0: nowhere. */
static uint64_t hole(const MemMap *map, uint64_t addr)
{
    uint64_t next = 0;
    for (unsigned i = 0; i < map->n; i++) {
        gpa_t gpa = map->slot[i].gpa;
        if (gpa > addr && (!next || gpa - addr < next))
            next = gpa - addr;
    }
    return next;
}

static void save_work(Vcpu *v, void *opaque)
{
    Dump *d = opaque;
    uint8_t page[4096];
    for (uint64_t done = 0; done < d->size;) {
        uint64_t left = d->size - done, gap = 0;
        size_t want = (size_t)MIN_OF(left, sizeof(page)),
               got = fetch(v, d, d->addr + done, page, want);
        /* What lies between RAM and ROM is no memory: zeros, so that places in the file are
         * addresses. */
        if (!got && d->physical && (gap = hole(v->vm->mem, d->addr + done)) != 0) {
            got = (size_t)MIN_OF(want, gap);
            memset(page, 0, got);
            d->zeros += got;
        }
        if (!write_all(d->fd, page, got)) {
            d->error = errno;
            return;
        }
        done += got;
        if (!got) {
            no_access(d, d->addr + done);
            g_string_append_printf(d->c->out,
                                   "Error: %s has the %" G_GUINT64_FORMAT " bytes before that\n",
                                   d->c->word[2], done);
            return;
        }
    }
}

static void save(MonCall *c, bool physical)
{
    g_autoptr(GString) why = g_string_new(NULL);
    Dump d = {.c = c, .physical = physical, .size = (uint64_t)c->number[1]};
    if (!monitor_expression(c->mon, c->word[0], &d.addr, why)) {
        g_string_append_printf(c->out, "Error: %s\n", why->str);
        return;
    }
    if (c->number[1] <= 0) {
        g_string_append_printf(c->out, "Error: %s is no size\n", c->word[1]);
        return;
    }
    d.fd = open(c->word[2], O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);
    if (d.fd < 0) {
        g_string_append_printf(c->out, "Error: %s: %s\n", c->word[2], g_strerror(errno));
        return;
    }
    /* All of one moment. */
    vcpus_pause(machine_vm(c->m));
    monitor_with_state(monitor_vcpu(c->mon), save_work, &d, c->out);
    vcpus_resume(machine_vm(c->m));
    if (d.zeros)
        g_string_append_printf(
            c->out, "%" G_GUINT64_FORMAT " bytes are no memory, and zeros in the file\n", d.zeros);
    if (close(d.fd) < 0 && !d.error)
        d.error = errno;
    if (d.error)
        g_string_append_printf(c->out, "Error: %s: %s\n", c->word[2], g_strerror(d.error));
}

void cmd_memsave(MonCall *c)
{
    save(c, false);
}

void cmd_pmemsave(MonCall *c)
{
    save(c, true);
}

/* ---- values ---- */

void cmd_print(MonCall *c)
{
    MonFormat f = {.format = c->has[0] ? c->format.format : 'x', .size = 8};
    uint64_t v = (uint64_t)c->number[1];
    g_autoptr(GString) text = g_string_new(NULL);
    if (f.format == 'x' || f.format == 'i')
        g_string_append_printf(text, "%#" G_GINT64_MODIFIER "x", v);
    else
        item(text, &f, f.format == 'c' ? (uint8_t)v : v);
    g_string_append_printf(c->out, "%s\n", g_strstrip(text->str));
}

typedef struct Translate {
    uint64_t addr;
    gpa_t gpa;
    bool mapped;
} Translate;

static void translate_work(Vcpu *v, void *opaque)
{
    Translate *t = opaque;
    t->mapped = mmu_debug_translate(&v->st, v->vm, t->addr, &t->gpa);
}

void cmd_gva2gpa(MonCall *c)
{
    Translate t = {.addr = (uint64_t)c->number[0]};
    if (!monitor_with_state(monitor_vcpu(c->mon), translate_work, &t, c->out))
        return;
    if (t.mapped)
        g_string_append_printf(c->out, "gpa: %#" G_GINT64_MODIFIER "x\n", t.gpa);
    else
        g_string_append(c->out, "Unmapped\n");
}
