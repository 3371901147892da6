/* `tandem diff decode`: Tandem's decoder against other decoders, with the manual's verdict. */
#include "diff/decode.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cpu/disasm.h"
#include "diff/modes.h"
#include "diff/progress.h"

/* Disagreements of one cause: of one verdict, or, without one, those that look alike. */
typedef struct Group {
    char *key;
    const Verdict *verdict;
    uint64_t count, index; /* how many; the number of the first */
    Disagreement d;
    const DecEngine *engine;
    enum DecMode mode;
    uint8_t bytes[DECODE_BYTES];
    Decoded tandem, other;
} Group;

typedef struct Run {
    uint64_t cases, seed, done;
    const DecEngine *engine[4];
    void *opaque[4][DEC_MODES];
    unsigned n_engines;
    enum DecMode mode[DEC_MODES];
    unsigned n_modes;
    GHashTable *groups;
} Run;

static const DecEngine *const engines[] = {
    &dec_capstone,
#ifdef TANDEM_ZYDIS
    &dec_zydis,
#endif
};

static volatile sig_atomic_t stopped;

static void on_signal(int sig G_GNUC_UNUSED)
{
    stopped = 1;
}

/* ---- options ---- */

static bool choose_engines(Run *r, const char *names, GError **err)
{
    if ((!names || strstr(names, dec_capstone.name)) && !capstone_lib(err))
        return false;
    if (!names) {
        for (unsigned e = 0; e < ARRAY_LEN(engines); e++)
            r->engine[r->n_engines++] = engines[e];
        return true;
    }
    g_auto(GStrv) name = g_strsplit(names, ",", -1);
    for (char **n = name; *n; n++) {
        const DecEngine *found = NULL;
        for (unsigned e = 0; e < ARRAY_LEN(engines); e++)
            if (!strcmp(engines[e]->name, *n))
                found = engines[e];
        for (unsigned k = 0; k < r->n_engines; k++)
            if (r->engine[k] == found)
                found = NULL;
        if (!found) {
            bool zydis = !strcmp(*n, "zydis") && ARRAY_LEN(engines) == 1;
            g_set_error(err, TANDEM_ERROR, zydis ? ERR_UNSUPPORTED : ERR_USAGE,
                        zydis ? "--engines: this build has no '%s': install libzydis-dev and "
                                "configure again"
                              : "--engines: '%s' is no decoder, or stands there twice: capstone, "
                                "zydis",
                        *n);
            return false;
        }
        r->engine[r->n_engines++] = found;
    }
    return true;
}

static bool choose_modes(Run *r, const char *name, GError **err)
{
    for (unsigned m = 0; m < DEC_MODES; m++) {
        bool named = !name || !strcmp(name, "all") || !strcmp(name, dec_mode_name[m]) ||
                     (!strcmp(name, "64") && dec_code64((enum DecMode)m));
        if (named)
            r->mode[r->n_modes++] = (enum DecMode)m;
    }
    if (!r->n_modes)
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--mode: '%s' is not 16, 32, 64 or all", name);
    return r->n_modes != 0;
}

static bool number(const char *option, const char *text, uint64_t *v, GError **err)
{
    char *end;
    if (!text)
        return true;
    errno = 0;
    *v = strtoull(text, &end, 0);
    if (errno || *end || end == text || *text == '-') {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s: '%s' is not a number", option, text);
        return false;
    }
    return true;
}

/* ---- the loop ---- */

static char *group_key(const DecContext *c, const Verdict *v)
{
    if (v)
        return g_strdup_printf("%s|%s", c->engine->name, v->name);
    return g_strdup_printf("%s|%s|%s|%s|%s|%u", c->engine->name, disagreement_name[c->d.kind],
                           c->tandem->name, c->other->name, c->d.what,
                           c->d.kind <= DIS_OTHER_UD ? (unsigned)c->map << 8 | c->opcode : 0u);
}

static void note(Run *r, const DecContext *c, uint64_t index)
{
    const Verdict *v = decode_verdict(c);
    g_autofree char *key = group_key(c, v);
    Group *g = g_hash_table_lookup(r->groups, key);
    if (!g) {
        g = g_new0(Group, 1);
        g->key = g_steal_pointer(&key);
        g->verdict = v;
        g->index = index;
        g->d = c->d;
        g->engine = c->engine;
        g->mode = c->mode;
        g->tandem = *c->tandem;
        g->other = *c->other;
        memcpy(g->bytes, c->bytes, DECODE_BYTES);
        g_hash_table_insert(r->groups, g->key, g);
    }
    g->count++;
}

static void one_case(Run *r, uint64_t index)
{
    uint8_t bytes[DECODE_BYTES];
    Decoded tandem, other;
    enum DecMode mode = r->mode[index % r->n_modes];
    decode_bytes(r->seed, index / r->n_modes, mode, bytes);
    dec_tandem(bytes, mode, &tandem);
    for (unsigned e = 0; e < r->n_engines; e++) {
        r->engine[e]->decode(r->opaque[e][mode], bytes, &other);
        DecContext c = {.bytes = bytes,
                        .mode = mode,
                        .tandem = &tandem,
                        .other = &other,
                        .engine = r->engine[e],
                        .d = decode_compare(&tandem, &other)};
        if (c.d.kind) {
            decode_context(&c);
            note(r, &c, index);
        }
    }
}

static void run(Run *r)
{
    Progress p;
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND}, was;
    for (unsigned e = 0; e < r->n_engines; e++)
        for (unsigned m = 0; m < r->n_modes; m++)
            r->opaque[e][r->mode[m]] = r->engine[e]->open(r->mode[m]);
    stopped = 0;
    sigaction(SIGINT, &act, &was);
    progress_start(&p, "diff decode", r->cases, 0);
    for (; r->done < r->cases && !stopped; r->done++) {
        one_case(r, r->done);
        if (r->done % 1024 == 0)
            progress(&p, r->done, NULL);
    }
    progress_end(&p);
    sigaction(SIGINT, &was, NULL);
    for (unsigned e = 0; e < r->n_engines; e++)
        for (unsigned m = 0; m < r->n_modes; m++)
            r->engine[e]->close(r->opaque[e][r->mode[m]]);
}

/* ---- what came of it ---- */

static unsigned rank(const Group *g)
{
    return !g->verdict ? 2 : g->verdict->right == RIGHT_OTHER;
}

/* What is explained first: what needs a look stands at the end, before the last line. */
static int by_rank(const void *a, const void *b)
{
    const Group *x = *(Group *const *)a, *y = *(Group *const *)b;
    if (rank(x) != rank(y))
        return (int)rank(x) - (int)rank(y);
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return strcmp(x->key, y->key);
}

static void print_side(const char *name, const Decoded *d)
{
    g_autoptr(GString) s = g_string_new(NULL);
    decoded_text(d, s);
    if (d->ok)
        printf("    %-9s %u bytes: %s\n", name, d->len, s->str);
    else
        printf("    %-9s #UD\n", name);
}

static void print_group(const Run *r, const Group *g)
{
    static const char *const right[] = {[RIGHT_TANDEM] = "Tandem is right",
                                        [RIGHT_OTHER] = "Tandem is wrong",
                                        [RIGHT_BOTH] = "both may"};
    if (g->verdict)
        printf("%s, %s: %" G_GUINT64_FORMAT " cases: %s: %s (%s)\n", g->verdict->name,
               g->engine->name, g->count, right[g->verdict->right], g->verdict->why,
               g->verdict->reference);
    else
        printf("no verdict, %s: %" G_GUINT64_FORMAT " cases: %s%s%s\n", g->engine->name, g->count,
               disagreement_name[g->d.kind], *g->d.what ? ": " : "", g->d.what);
    unsigned n = MAX_OF(g->tandem.len, g->other.len);
    printf("    mode %s, case %" G_GUINT64_FORMAT " of seed %" G_GUINT64_FORMAT ":",
           dec_mode_name[g->mode], g->index, r->seed);
    for (unsigned k = 0; k < n; k++)
        printf(" %02x", g->bytes[k]);
    puts("");
    print_side("tandem", &g->tandem);
    print_side(g->engine->name, &g->other);
}

static int report(const Run *r)
{
    unsigned n = 0, explained = 0, unexplained = 0, wrong = 0;
    g_autofree Group **group = g_new(Group *, g_hash_table_size(r->groups) + 1);
    GHashTableIter it;
    void *value;
    g_hash_table_iter_init(&it, r->groups);
    while (g_hash_table_iter_next(&it, NULL, &value))
        group[n++] = value;
    qsort(group, n, sizeof(*group), by_rank);
    for (unsigned e = 0; e < r->n_engines; e++)
        printf("%s %s\n", r->engine[e]->name, r->engine[e]->version());
    for (unsigned k = 0; k < n; k++) {
        print_group(r, group[k]);
        explained += group[k]->verdict != NULL;
        unexplained += !group[k]->verdict;
        wrong += rank(group[k]) == 1;
    }
    if (wrong)
        printf("in %u of them Tandem is wrong\n", wrong);
    if (r->done < r->cases)
        printf("stopped before the end\n");
    printf("cases=%" G_GUINT64_FORMAT " disagreements=%u explained=%u unexplained=%u\n", r->done, n,
           explained, unexplained);
    return wrong || unexplained ? 1 : r->done < r->cases ? 2 : 0;
}

static void group_free(void *p)
{
    Group *g = p;
    g_free(g->key);
    g_free(g);
}

int diff_decode(int argc, char *argv[])
{
    g_autoptr(GError) err = NULL;
    g_autofree char *cases = NULL, *seed = NULL, *mode = NULL, *names = NULL;
    GOptionEntry options[] = {
        {"cases", 0, 0, G_OPTION_ARG_STRING, &cases, "How many (1000000)", "N"},
        {"seed", 0, 0, G_OPTION_ARG_STRING, &seed, "Where they come from (1)", "S"},
        {"mode", 0, 0, G_OPTION_ARG_STRING, &mode, "16, 32, 64 or all (all)", "MODE"},
        {"engines", 0, 0, G_OPTION_ARG_STRING, &names, "capstone, zydis (all that this build has)",
         "A,B"},
        {NULL}};
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_option_context_set_summary(
        context,
        "Holds Tandem's decoder against others over bytes made from the instruction table and\n"
        "random ones: lengths, mnemonics, operands. Disagreements are grouped by cause and come\n"
        "with the manual's verdict. Exit status: 0 when each is explained and Tandem right, 1 "
        "when\n"
        "not, 2 when something could not be done.");
    g_option_context_add_main_entries(context, options, NULL);
    Run r = {.cases = 1000000, .seed = 1};
    bool ok = g_option_context_parse(context, &argc, &argv, &err);
    if (ok && argc > 1) {
        g_set_error(&err, TANDEM_ERROR, ERR_USAGE, "'%s' is not an option", argv[1]);
        ok = false;
    }
    ok = ok && number("--cases", cases, &r.cases, &err) && number("--seed", seed, &r.seed, &err) &&
         choose_modes(&r, mode, &err) && choose_engines(&r, names, &err);
    if (!ok) {
        warn_user("diff decode: %s", err->message);
        return 2;
    }
    r.groups = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, group_free);
    run(&r);
    int status = report(&r);
    g_hash_table_destroy(r.groups);
    return status;
}
