/* savestate, statediff: the state of vCPUs as text, and two of them held against each other. */
#include <json-glib/json-glib.h>
#include <string.h>

#include "base/files.h"
#include "base/log.h"
#include "monitor/monitor_priv.h"
#include "switch/vcpu_loop.h"
#include "vmstate/state.h"
#include "vmstate/text.h"

#define FILE_FIRST_LINE "tandem vcpu state 1"
#define FILE_MOST       (16u << 20)

/* A vCPU, and what its interrupts come through; files of before that was kept are without. */
typedef struct State {
    CpuState cpu;
    ChipView chips;
    bool has_chips;
} State;

static Vcpu *vcpu_numbered(MonCall *c, const char *text)
{
    guint64 n;
    VmCommon *vm = machine_vm(c->m);
    if (!g_ascii_string_to_unsigned(text, 10, 0, UINT32_MAX, &n, NULL) || n >= vm->n_vcpus) {
        g_string_append_printf(c->out, "Error: no cpu %s; there are 0 to %u\n", text,
                               vm->n_vcpus - 1);
        return NULL;
    }
    return vm->vcpu[n];
}

static void copy_state(Vcpu *v, void *opaque)
{
    memcpy(opaque, &v->st, sizeof(v->st));
}

typedef struct RawWork {
    CpuState *out;
    GError *err;
} RawWork;

/* As the engine gives it: no rule has seen it. Where the engine works in v->st that is the truth.
 * One that has not taken the state in since somebody looked at it does so now. */
static void raw_state(Vcpu *v, void *opaque)
{
    RawWork *w = opaque;
    if (!v->engine->is_software && !vcpu_bring_in(v, &w->err))
        return;
    g_autofree CpuState *kept = g_memdup2(&v->st, sizeof(v->st));
    if (v->where == ST_CANONICAL || v->engine->export_state(v, GROUPS_ALL, &w->err))
        memcpy(w->out, &v->st, sizeof(v->st));
    v->st = *kept;
}

/* Before the vCPU's own state: KVM may hand it an interrupt as its local APIC is read. */
static bool add_chips(MonCall *c, const Vcpu *v, bool raw, State *out)
{
    g_autoptr(GError) err = NULL;
    out->has_chips = machine_chips(c->m, (unsigned)v->id, raw, &out->chips, &err);
    if (!out->has_chips)
        g_string_append_printf(c->out, "Error: %s\n", err->message);
    return out->has_chips;
}

static bool from_engine(MonCall *c, const char *number, State *out)
{
    RawWork w = {&out->cpu, NULL};
    Vcpu *v = vcpu_numbered(c, number);
    if (!v)
        return false;
    if (!add_chips(c, v, true, out))
        return false;
    vcpu_run_on(v, raw_state, &w);
    if (!w.err)
        return true;
    g_string_append_printf(c->out, "Error: %s\n", w.err->message);
    g_error_free(w.err);
    return false;
}

static bool from_cpu(MonCall *c, const char *number, State *out)
{
    Vcpu *v = vcpu_numbered(c, number);
    return v && add_chips(c, v, false, out) && monitor_with_state(v, copy_state, &out->cpu, c->out);
}

/* False: neither knows such a line. */
static bool read_line(State *out, const char *line, GError **err)
{
    bool known;
    if (!chips_read_text(&out->chips, line, &known, err))
        return false;
    out->has_chips |= known;
    return known || vmstate_read_text(&out->cpu, line, err);
}

static bool from_file(MonCall *c, const char *path, State *out)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) err = NULL;
    gsize len;
    if (!file_read_regular(path, FILE_MOST, &text, &len, &err)) {
        g_string_append_printf(c->out, "Error: '%s' is neither cpuN nor engineN, nor a file: %s\n",
                               path, err->message);
        return false;
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    if (!lines[0] || strcmp(lines[0], FILE_FIRST_LINE) != 0) {
        g_string_append_printf(c->out, "Error: %s is not a state that savestate has written\n",
                               path);
        return false;
    }
    memset(out, 0, sizeof(*out));
    for (unsigned i = 1; lines[i]; i++) {
        if (*lines[i] && !read_line(out, lines[i], &err)) {
            g_string_append_printf(c->out, "Error: %s, line %u: %s\n", path, i + 1, err->message);
            return false;
        }
    }
    return true;
}

static bool state_named(MonCall *c, const char *name, State *out)
{
    static const struct {
        const char *prefix;
        bool (*from)(MonCall *, const char *, State *);
    } kinds[] = {{"cpu", from_cpu}, {"engine", from_engine}};
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        const char *number = name + strlen(kinds[i].prefix);
        if (g_str_has_prefix(name, kinds[i].prefix) && g_ascii_isdigit(*number))
            return kinds[i].from(c, number, out);
    }
    return from_file(c, name, out);
}

void cmd_savestate(MonCall *c)
{
    g_autofree State *st = g_new0(State, 1);
    g_autofree char *number =
        g_strdup_printf("%" G_GINT64_FORMAT, c->has[1] ? c->number[1] : (int64_t)c->mon->cpu);
    g_autoptr(GString) text = g_string_new(FILE_FIRST_LINE "\n");
    g_autoptr(GError) err = NULL;
    vcpus_pause(machine_vm(c->m));
    bool ok = from_cpu(c, number, st);
    vcpus_resume(machine_vm(c->m));
    if (!ok)
        return;
    vmstate_write_text(&st->cpu, "", text);
    chips_write_text(&st->chips, text);
    if (!file_write(c->word[0], text->str, text->len, &err))
        g_string_append_printf(c->out, "Error: %s\n", err->message);
}

/* ---- statediff ---- */

static const char *group_name(uint32_t group)
{
    static const char *const names[] = {"regs",      "sregs", "fpu",    "xcrs",
                                        "debugregs", "msrs",  "events", "mp_state"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (group & BIT(i))
            return names[i];
    }
    return "";
}

typedef void RowFn(const char *group, const char *field, const char *a, const char *b, void *out);

static void text_row(const char *group, const char *field, const char *a, const char *b, void *out)
{
    g_string_append_printf(out, "%-9s %-20s %s  |  %s\n", group, field, a, b);
}

static void json_row(const char *group, const char *field, const char *a, const char *b, void *out)
{
    static const char *const keys[] = {"group", "field", "a", "b"};
    const char *const values[] = {group, field, a, b};
    json_builder_begin_object(out);
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++) {
        json_builder_set_member_name(out, keys[i]);
        json_builder_add_string_value(out, values[i]);
    }
    json_builder_end_object(out);
}

typedef struct Rows {
    RowFn *fn;
    void *out;
} Rows;

static void cpu_row(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    const Rows *r = opaque;
    r->fn(group_name(f->group), f->name, a, b, r->out);
}

static void chip_row(const char *group, const char *field, uint64_t a, uint64_t b, void *opaque)
{
    const Rows *r = opaque;
    char text[2][24];
    g_snprintf(text[0], sizeof(text[0]), "%#" G_GINT64_MODIFIER "x", a);
    g_snprintf(text[1], sizeof(text[1]), "%#" G_GINT64_MODIFIER "x", b);
    r->fn(group, field, text[0], text[1], r->out);
}

static unsigned diff(const State *a, const State *b, RowFn *fn, void *out)
{
    Rows r = {fn, out};
    unsigned n = vmstate_diff(&a->cpu, &b->cpu, GROUPS_ALL, cpu_row, &r);
    if (a->has_chips && b->has_chips)
        n += chips_diff(&a->chips, &b->chips, chip_row, &r);
    return n;
}

static void as_json(MonCall *c, const State *a, const State *b)
{
    g_autoptr(JsonBuilder) jb = json_builder_new();
    json_builder_begin_object(jb);
    json_builder_set_member_name(jb, "a");
    json_builder_add_string_value(jb, c->word[1]);
    json_builder_set_member_name(jb, "b");
    json_builder_add_string_value(jb, c->word[2]);
    json_builder_set_member_name(jb, "differences");
    json_builder_begin_array(jb);
    diff(a, b, json_row, jb);
    json_builder_end_array(jb);
    json_builder_end_object(jb);
    g_autoptr(JsonNode) root = json_builder_get_root(jb);
    g_autofree char *text = json_to_string(root, TRUE);
    g_string_append_printf(c->out, "%s\n", text);
}

void cmd_statediff(MonCall *c)
{
    g_autofree State *a = g_new0(State, 1), *b = g_new0(State, 1);
    /* Both of one moment where both are of vCPUs. */
    vcpus_pause(machine_vm(c->m));
    bool ok = state_named(c, c->word[1], a) && state_named(c, c->word[2], b);
    vcpus_resume(machine_vm(c->m));
    if (!ok)
        return;
    if (c->has[0]) {
        as_json(c, a, b);
        return;
    }
    unsigned n = diff(a, b, text_row, c->out);
    if (n)
        g_string_append_printf(c->out, "%u fields differ: %s  |  %s\n", n, c->word[1], c->word[2]);
    else
        g_string_append(c->out, "no field differs\n");
}
