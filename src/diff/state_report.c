/* Differences grouped by field and cause. */
#include "diff/state.h"

#include <string.h>

typedef struct Group {
    char *field;  /* or "(refused)" */
    StateWhy why; /* kind NULL: a finding */
    char *detail; /* of a finding that is a refusal: KVM's message without its values */
    uint64_t count, index;
    char *bent;
    char *in, *out; /* of the first case; out is the message of a refusal */
} Group;

struct StateReport {
    GPtrArray *groups;
    GHashTable *by_key, *fields;
};

#define REFUSED_FIELD "(state refused)"

static void group_free(void *p)
{
    Group *g = p;
    g_free(g->field);
    g_free(g->detail);
    g_free(g->bent);
    g_free(g->in);
    g_free(g->out);
    g_free(g);
}

StateReport *state_report_new(void)
{
    StateReport *r = g_new0(StateReport, 1);
    r->groups = g_ptr_array_new_with_free_func(group_free);
    r->by_key = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    r->fields = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return r;
}

void state_report_free(StateReport *r)
{
    g_hash_table_unref(r->by_key);
    g_hash_table_unref(r->fields);
    g_ptr_array_unref(r->groups);
    g_free(r);
}

typedef struct Adding {
    StateReport *r;
    const StateEnv *env;
    uint64_t index;
    const char *bent;
    const CpuState *in, *out;
} Adding;

static void count(const Adding *a, const char *field, const StateWhy *why, const char *detail,
                  const char *in, const char *out)
{
    g_autofree char *key = g_strdup_printf("%s|%s|%s|%s", field, why->kind ? why->kind : "",
                                           why->kind ? why->name : "", detail ? detail : "");
    Group *g = g_hash_table_lookup(a->r->by_key, key);
    if (!g) {
        g = g_new0(Group, 1);
        g->field = g_strdup(field);
        g->why = *why;
        g->detail = g_strdup(detail);
        g->index = a->index;
        g->bent = g_strdup(a->bent);
        g->in = g_strdup(in);
        g->out = g_strdup(out);
        g_ptr_array_add(a->r->groups, g);
        g_hash_table_insert(a->r->by_key, g_steal_pointer(&key), g);
        g_hash_table_add(a->r->fields, g_strdup(field));
    }
    g->count++;
}

static void add_field(const VmstateField *f, const char *in, const char *out, void *opaque)
{
    const Adding *a = opaque;
    StateWhy why = {0};
    state_explain(a->env, f, a->in, a->out, &why);
    count(a, f->name, &why, NULL, in, out);
}

/* "KVM refuses MSR PAT = 0x2" is one finding whatever the value. */
static char *without_numbers(const char *message)
{
    GString *s = g_string_new(NULL);
    for (const char *p = message; *p; p++) {
        if (p[0] == '0' && p[1] == 'x') {
            g_string_append(s, "N");
            for (p += 2; g_ascii_isxdigit(*p); p++)
                ;
            p--;
        } else {
            g_string_append_c(s, *p);
        }
    }
    return g_string_free(s, FALSE);
}

void state_report_add(StateReport *r, const StateEnv *env, uint64_t index, const char *bent,
                      const CpuState *in, const CpuState *out, const char *refusal)
{
    Adding a = {r, env, index, bent, in, out};
    if (!refusal) {
        vmstate_diff(in, out, GROUPS_ALL, add_field, &a);
        return;
    }
    StateWhy why = {0};
    char value[140] = "";
    const VmstateField *f = bent ? vmstate_field(bent) : NULL;
    bool explained = state_explain_refusal(env, in, refusal, &why);
    g_autofree char *detail = explained ? NULL : without_numbers(refusal);
    if (f)
        vmstate_print(in, f, value, sizeof(value));
    count(&a, REFUSED_FIELD, &why, detail, value, refusal);
}

static unsigned how_many(const StateReport *r, bool explained)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->groups->len; i++) {
        const Group *g = r->groups->pdata[i];
        n += explained == (g->why.kind != NULL);
    }
    return n;
}

unsigned state_report_explained(const StateReport *r)
{
    return how_many(r, true);
}

unsigned state_report_findings(const StateReport *r)
{
    return how_many(r, false);
}

unsigned state_report_fields(const StateReport *r)
{
    return g_hash_table_size(r->fields);
}

static int by_field(const void *a, const void *b)
{
    const Group *const *x = a, *const *y = b;
    int finding = ((*x)->why.kind != NULL) - ((*y)->why.kind != NULL);
    int field = strcmp((*x)->field, (*y)->field);
    return finding ? finding : field ? field : (*x)->index < (*y)->index ? -1 : 1;
}

static void text_of(const Group *g, GString *out)
{
    if (g->why.kind)
        g_string_append_printf(out, "%s: %" G_GUINT64_FORMAT " by %s '%s' (%s)\n", g->field,
                               g->count, g->why.kind, g->why.name, g->why.reason);
    else
        g_string_append_printf(out, "FINDING %s: %" G_GUINT64_FORMAT ", not explained\n", g->field,
                               g->count);
    g_string_append_printf(out, "    state %" G_GUINT64_FORMAT, g->index);
    if (g->bent)
        g_string_append_printf(out, " (%s bent)", g->bent);
    if (*g->in)
        g_string_append_printf(out, ": %s", g->in);
    g_string_append_printf(out, " -> %s\n", g->out);
}

void state_report_text(const StateReport *r, GString *out)
{
    g_ptr_array_sort(r->groups, by_field);
    for (unsigned i = 0; i < r->groups->len; i++)
        text_of(r->groups->pdata[i], out);
}

static void json_string(GString *out, const char *name, const char *value)
{
    g_string_append_printf(out, ",\"%s\":\"", name);
    for (const char *p = value ? value : ""; *p; p++) {
        if (*p == '"' || *p == '\\')
            g_string_append_c(out, '\\');
        if ((unsigned char)*p < ' ')
            g_string_append_printf(out, "\\u%04x", *p);
        else
            g_string_append_c(out, *p);
    }
    g_string_append_c(out, '"');
}

void state_report_json(const StateReport *r, const char *engine, uint64_t seed, GString *out)
{
    for (unsigned i = 0; i < r->groups->len; i++) {
        const Group *g = r->groups->pdata[i];
        g_string_append_printf(out,
                               "{\"type\":\"state\",\"seed\":%" G_GUINT64_FORMAT
                               ",\"state\":%" G_GUINT64_FORMAT ",\"count\":%" G_GUINT64_FORMAT
                               ",\"finding\":%s",
                               seed, g->index, g->count, g->why.kind ? "false" : "true");
        json_string(out, "engine", engine);
        json_string(out, "field", g->field);
        json_string(out, "bent", g->bent);
        json_string(out, "in", g->in);
        json_string(out, "out", g->out);
        json_string(out, "by", g->why.kind);
        json_string(out, "name", g->why.name);
        json_string(out, "reason", g->why.reason);
        g_string_append(out, "}\n");
    }
}
