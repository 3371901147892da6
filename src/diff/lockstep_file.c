/*
 * The state file: a text header, then RAM.
 *
 *   tandem lockstep state 1
 *   engines interp kvm
 *   ...                         a line a fact: the CPU's CPUID, the map, registers, the log
 *   | ...                       what was said about the divergence
 *   pages 1234
 *   sha256 ...                  of all lines above
 *   a zlib stream: for each page its address (8 bytes, little-endian) and its 4,096 bytes
 *
 * Pages that are all zeros are left out. Nothing in the file is believed before it is checked.
 */
#include "diff/lockstep.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "vmstate/rules.h"
#include "vmstate/text.h"

#define MAGIC "tandem lockstep state 1"
enum { PAGE = 4096, RECORD = 8 + PAGE, DMA_MAX = 1 << 24 };

/* ---- writing ---- */

static void write_cpuid(const CpuidTable *t, GString *out)
{
    g_string_append_printf(out, "cpu %s\ncpuid-max %#x %#x\n", t->model, t->max_basic, t->max_ext);
    for (unsigned i = 0; i < t->n; i++) {
        const CpuidEntry *e = &t->e[i];
        g_string_append_printf(out, "cpuid %#x %#x %u %#x %#x %#x %#x\n", e->leaf, e->subleaf,
                               e->has_subleaf, e->eax, e->ebx, e->ecx, e->edx);
    }
}

static void write_event(const LsEvent *e, GString *out)
{
    g_string_append_printf(
        out, "event %s %u %u %u %#" PRIx64 " %#" PRIx64 " %#" PRIx64 " %#" PRIx64 " %" PRIu64 " ",
        ls_event_name[e->kind], e->what, e->size, e->ok, e->addr, e->value, e->rip, e->rcx,
        e->count);
    if (e->kind == LSE_DMA)
        hex_write(e->data, e->value, out);
    else
        g_string_append_c(out, '-');
    g_string_append_c(out, '\n');
}

static bool zero_page(const uint8_t *p)
{
    return !p[0] && !memcmp(p, p + 1, PAGE - 1);
}

typedef bool PageFn(gpa_t gpa, const uint8_t *page, void *opaque, GError **err);

static bool each_page(const MemMap *map, PageFn *fn, void *opaque, GError **err)
{
    for (unsigned i = 0; i < map->n; i++) {
        const RamSlot *s = &map->slot[i];
        for (uint64_t at = 0, len; slot_data(s, &at, &len); at += len)
            for (uint64_t k = 0; k < len; k += PAGE)
                if (!zero_page(s->host + at + k) &&
                    !fn(s->gpa + at + k, s->host + at + k, opaque, err))
                    return false;
    }
    return true;
}

static bool count_page(gpa_t gpa, const uint8_t *page, void *opaque, GError **err)
{
    ++*(uint64_t *)opaque;
    return true;
}

static bool write_page(gpa_t gpa, const uint8_t *page, void *opaque, GError **err)
{
    uint64_t le = GUINT64_TO_LE(gpa);
    GOutputStream *o = opaque;
    return g_output_stream_write_all(o, &le, sizeof(le), NULL, NULL, err) &&
           g_output_stream_write_all(o, page, PAGE, NULL, NULL, err);
}

static void write_header(const Lockstep *ls, const char *report, GString *out)
{
    const CpuState *st = ls->by_full ? &ls->checkpoint : &ls->before;
    const VmCommon *vm = ls->side[LEADER].vm;
    unsigned from = ls->by_full ? 0 : ls->step_at;
    g_string_append_printf(out, MAGIC "\nengines %s %s\nevery %" PRIu64 "\nat %" PRIu64 "\n",
                           ls->side[LEADER].engine->name, ls->side[FOLLOWER].engine->name,
                           ls->opt.every, ls->by_full ? ls->checkpoint_insns : ls->step_insns);
    g_string_append_printf(out, "full %u\ntpr %u\ntsc-fixed %u\ntsc-offset %#" PRIx64 "\n",
                           ls->by_full, ls->side[ls->first].tpr, vm->tsc_offset_fixed,
                           st->tsc_offset);
    write_cpuid(vm->cpuid, out);
    for (unsigned i = 0; i < vm->mem->n; i++)
        g_string_append_printf(out, "slot %#" PRIx64 " %#" PRIx64 " %u\n", vm->mem->slot[i].gpa,
                               vm->mem->slot[i].size, vm->mem->slot[i].readonly);
    vmstate_write_text(st, "state ", out);
    for (unsigned i = from; i < ls->log->len; i++)
        write_event(&g_array_index(ls->log, LsEvent, i), out);
    g_auto(GStrv) lines = g_strsplit(report, "\n", -1);
    for (char **l = lines; *l; l++)
        if (**l)
            g_string_append_printf(out, "| %s\n", *l);
}

bool ls_save(Lockstep *ls, const char *path, const char *report, GError **err)
{
    LsSide *from = &ls->side[ls_notes(&ls->side[ls->first]) ? ls->first : FOLLOWER];
    for (unsigned i = 0; i < SIDES; i++)
        if (ls_soft(&ls->side[i]))
            ls_undo(&ls->side[i], ls->by_full ? 0 : ls->side[i].mark);
    g_autoptr(GString) head = g_string_new(NULL);
    uint64_t pages = 0;
    write_header(ls, report, head);
    each_page(from->vm->mem, count_page, &pages, NULL);
    g_string_append_printf(head, "pages %" PRIu64 "\n", pages);
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, head->str, -1);
    g_string_append_printf(head, "sha256 %s\n", sum);

    g_autoptr(GFile) file = g_file_new_for_path(path);
    g_autoptr(GFileOutputStream) f =
        g_file_replace(file, NULL, FALSE, G_FILE_CREATE_REPLACE_DESTINATION, NULL, err);
    if (!f)
        return false;
    g_autoptr(GConverter) zlib =
        G_CONVERTER(g_zlib_compressor_new(G_ZLIB_COMPRESSOR_FORMAT_ZLIB, 1));
    g_autoptr(GOutputStream) z = g_converter_output_stream_new(G_OUTPUT_STREAM(f), zlib);
    return g_output_stream_write_all(G_OUTPUT_STREAM(f), head->str, head->len, NULL, NULL, err) &&
           each_page(from->vm->mem, write_page, z, err) && g_output_stream_close(z, NULL, err);
}

/* ---- reading ---- */

typedef struct Reader {
    const char *path;
    unsigned line;
    char engine[SIDES][16];
    uint64_t every, at, tsc_offset, pages;
    bool full, tsc_fixed;
    unsigned tpr;
    CpuidTable cpuid;
    MemMap map; /* no hosts */
    CpuState st;
    GArray *log;
    GString *report;
} Reader;

static bool wrong(const Reader *r, GError **err, const char *what)
{
    g_set_error(err, TANDEM_ERROR, ERR_STATE,
                "%s line %u: %s; it is damaged, or was not made by this version of Tandem", r->path,
                r->line, what);
    return false;
}

static bool number(const char *word, uint64_t most, uint64_t *out)
{
    char *end;
    if (!word || !g_ascii_isdigit(*word))
        return false;
    *out = g_ascii_strtoull(word, &end, 0);
    return !*end && *out <= most;
}

static bool numbers(char **words, unsigned n, uint64_t most, uint64_t *out)
{
    for (unsigned i = 0; i < n; i++)
        if (!number(words[i], most, &out[i]))
            return false;
    return !words[n];
}

static bool one(char **words, uint64_t most, uint64_t *out)
{
    return numbers(words, 1, most, out);
}

static bool read_slot(Reader *r, char **words)
{
    uint64_t v[3];
    const RamSlot *last = r->map.n ? &r->map.slot[r->map.n - 1] : NULL;
    if (!numbers(words, 3, BIT(52), v) || v[2] > 1 || v[0] % PAGE || v[1] % PAGE || !v[1] ||
        r->map.n == MEMMAP_MAX || (last && v[0] < last->gpa + last->size))
        return false;
    r->map.slot[r->map.n++] = (RamSlot){.gpa = v[0], .size = v[1], .readonly = v[2] != 0, .fd = -1};
    return true;
}

static bool read_cpuid(Reader *r, char **words)
{
    uint64_t v[7];
    if (!numbers(words, 7, UINT32_MAX, v) || v[2] > 1 || r->cpuid.n == CPUID_MAX)
        return false;
    r->cpuid.e[r->cpuid.n++] = (CpuidEntry){.leaf = (uint32_t)v[0],
                                            .subleaf = (uint32_t)v[1],
                                            .has_subleaf = v[2] != 0,
                                            .eax = (uint32_t)v[3],
                                            .ebx = (uint32_t)v[4],
                                            .ecx = (uint32_t)v[5],
                                            .edx = (uint32_t)v[6]};
    return true;
}

static bool event_fits(const LsEvent *e)
{
    bool io = e->kind == LSE_PIO_READ || e->kind == LSE_PIO_WRITE;
    if (e->kind == LSE_STEP)
        return e->what < LSS_KINDS && e->value < 256;
    if (e->kind == LSE_DMA)
        return e->value > 0 && e->value <= DMA_MAX;
    return (e->size == 1 || e->size == 2 || e->size == 4 || (e->size == 8 && !io)) &&
           (!io || e->addr <= 0xffff);
}

static bool read_event(Reader *r, char **words)
{
    uint64_t v[8];
    unsigned kind = 0;
    if (g_strv_length(words) != 10)
        return false;
    while (kind < LSE_KINDS && strcmp(words[0], ls_event_name[kind]) != 0)
        kind++;
    for (unsigned i = 0; i < ARRAY_LEN(v); i++)
        if (!number(words[1 + i], i < 3 ? 255 : UINT64_MAX, &v[i]))
            return false;
    LsEvent e = {.kind = (uint8_t)kind,
                 .what = (uint8_t)v[0],
                 .size = (uint8_t)v[1],
                 .ok = v[2] != 0,
                 .addr = v[3],
                 .value = v[4],
                 .rip = v[5],
                 .rcx = v[6],
                 .count = v[7]};
    if (kind == LSE_KINDS || v[2] > 1 || !event_fits(&e) || (!r->log->len && kind != LSE_STEP))
        return false;
    if (kind == LSE_DMA) {
        e.data = g_malloc(e.value);
        if (!hex_read(words[9], e.data, e.value)) {
            g_free(e.data);
            return false;
        }
    }
    g_array_append_val(r->log, e);
    return true;
}

static bool read_line(Reader *r, const char *line, GError **err)
{
    const char *rest = strchr(line, ' ');
    g_autofree char *key = rest ? g_strndup(line, (gsize)(rest - line)) : g_strdup(line);
    g_auto(GStrv) words = g_strsplit(rest ? rest + 1 : "", " ", -1);
    uint64_t v[2] = {0};
    bool ok;
    if (!strcmp(key, "|")) {
        g_string_append_printf(r->report, "%s\n", rest ? rest + 1 : "");
        ok = true;
    } else if (!strcmp(key, "engines")) {
        ok = g_strv_length(words) == 2 && strlen(words[0]) < 16 && strlen(words[1]) < 16;
        for (unsigned i = 0; ok && i < SIDES; i++)
            g_strlcpy(r->engine[i], words[i], sizeof(r->engine[i]));
    } else if (!strcmp(key, "every")) {
        ok = one(words, UINT32_MAX, &r->every);
    } else if (!strcmp(key, "at")) {
        ok = one(words, UINT64_MAX, &r->at);
    } else if (!strcmp(key, "full")) {
        ok = one(words, 1, v);
        r->full = v[0];
    } else if (!strcmp(key, "tpr")) {
        ok = one(words, 15, v);
        r->tpr = (unsigned)v[0];
    } else if (!strcmp(key, "tsc-fixed")) {
        ok = one(words, 1, v);
        r->tsc_fixed = v[0];
    } else if (!strcmp(key, "tsc-offset")) {
        ok = one(words, UINT64_MAX, &r->tsc_offset);
    } else if (!strcmp(key, "cpu")) {
        g_strlcpy(r->cpuid.model, rest ? rest + 1 : "", sizeof(r->cpuid.model));
        ok = true;
    } else if (!strcmp(key, "cpuid-max")) {
        ok = numbers(words, 2, UINT32_MAX, v);
        r->cpuid.max_basic = (uint32_t)v[0];
        r->cpuid.max_ext = (uint32_t)v[1];
    } else if (!strcmp(key, "cpuid")) {
        ok = read_cpuid(r, words);
    } else if (!strcmp(key, "slot")) {
        ok = read_slot(r, words);
    } else if (!strcmp(key, "event")) {
        ok = read_event(r, words);
    } else if (!strcmp(key, "pages")) {
        ok = one(words, UINT32_MAX, &r->pages);
    } else if (!strcmp(key, "state")) {
        g_autoptr(GError) why = NULL;
        ok = vmstate_read_text(&r->st, rest ? rest + 1 : "", &why);
        if (!ok)
            return wrong(r, err, why->message);
    } else {
        return wrong(r, err, "not a line of a lockstep state");
    }
    return ok || wrong(r, err, "a value that cannot be");
}

/* Returns where RAM begins, or NULL. */
static const char *read_header(Reader *r, const char *text, gsize len, GError **err)
{
    const char *end = text + len, *at = text;
    for (;;) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        r->line++;
        if (!nl || (r->line == 1 && (nl - at != strlen(MAGIC) || memcmp(at, MAGIC, strlen(MAGIC)))))
            return wrong(r, err, r->line == 1 ? "not a lockstep state" : "it ends early"), NULL;
        g_autofree char *line = g_strndup(at, (gsize)(nl - at));
        if (g_str_has_prefix(line, "sha256 ")) {
            g_autofree char *sum = g_compute_checksum_for_data(
                G_CHECKSUM_SHA256, (const guchar *)text, (gsize)(at - text));
            return !strcmp(line + 7, sum) ? nl + 1
                                          : (wrong(r, err, "the checksum is another"), NULL);
        }
        if (r->line > 1 && !read_line(r, line, err))
            return NULL;
        at = nl + 1;
    }
}

static bool check_header(Reader *r, GError **err)
{
    CpuState copy = r->st;
    RuleEnv env = {.cpuid = &r->cpuid, .tsc_offset_fixed = r->tsc_fixed};
    if (!r->map.n || !r->cpuid.n || !r->log->len || !*r->engine[0])
        return wrong(r, err, "its map, its CPU or its steps are missing");
    return rules_apply(&copy, RULE_BOTH, &env, NULL, err);
}

static bool read_pages(const Reader *r, const char *data, gsize len, Twin *a, Twin *b, GError **err)
{
    g_autoptr(GInputStream) mem = g_memory_input_stream_new_from_data(data, (gssize)len, NULL);
    g_autoptr(GConverter) zlib =
        G_CONVERTER(g_zlib_decompressor_new(G_ZLIB_COMPRESSOR_FORMAT_ZLIB));
    g_autoptr(GInputStream) z = g_converter_input_stream_new(mem, zlib);
    g_autofree uint8_t *rec = g_malloc(RECORD);
    gsize got = 0;
    for (uint64_t n = 0; n <= r->pages; n++) {
        uint64_t gpa;
        if (!g_input_stream_read_all(z, rec, n < r->pages ? RECORD : 1, &got, NULL, err)) {
            g_prefix_error(err, "%s: RAM: ", r->path);
            return false;
        }
        if (n == r->pages)
            break;
        memcpy(&gpa, rec, sizeof(gpa));
        gpa = GUINT64_FROM_LE(gpa);
        uint8_t *pa = memmap_host(&a->mem, gpa, PAGE, false);
        uint8_t *pb = memmap_host(&b->mem, gpa, PAGE, false);
        if (got != RECORD || gpa % PAGE || !pa || !pb)
            return wrong(r, err, "its RAM ends early, or has a page that is not in the map");
        memcpy(pa, rec + 8, PAGE);
        memcpy(pb, rec + 8, PAGE);
    }
    return !got || wrong(r, err, "there is more RAM than it says");
}

static Lockstep *make(Reader *r, const Engine *const e[SIDES], const char *ram, gsize len,
                      GError **err)
{
    Lockstep *ls = aligned_alloc(64, (sizeof(Lockstep) + 63) / 64 * 64);
    memset(ls, 0, sizeof(*ls));
    LsOptions opt = {.every = r->every};
    ls->tap = &ls->own_tap;
    ls->own_tap.of[0] = ls;
    VmCommon like = {.mem = &r->map,
                     .n_vcpus = 1,
                     .cpuid = &r->cpuid,
                     .clock = clock_new(),
                     .tsc_offset_fixed = r->tsc_fixed};
    for (unsigned i = 0; i < SIDES; i++) {
        Twin *t = twin_new(&like, e[i], &ls_bus, ls->tap, err);
        if (!t)
            goto fail;
        ls->twin[i] = t;
        ls->side[i] = (LsSide){.v = t->v, .vm = &t->vm, .engine = e[i], .tpr = (uint8_t)r->tpr};
    }
    if (!ls_init(ls, &opt, err) ||
        !read_pages(r, ram, len, ls->twin[LEADER], ls->twin[FOLLOWER], err))
        goto fail;
    g_array_free(ls->log, TRUE);
    ls->log = r->log;
    r->log = NULL;
    ls->insns = ls->checkpoint_insns = r->at;
    ls->by_full = r->full;
    r->st.tsc_offset = r->tsc_offset;
    ls->before = ls->checkpoint = r->st;
    for (unsigned i = 0; i < SIDES; i++)
        if (!ls_put_state(ls, i, &ls->before, err))
            goto fail;
    return ls;
fail:
    if (!ls->twin[LEADER])
        clock_free(like.clock);
    ls_free_loaded(ls);
    return NULL;
}

Lockstep *ls_load(const char *path, const Engine *leader, const Engine *follower, GString *report,
                  GError **err)
{
    Reader r = {.path = path,
                .log = g_array_new(FALSE, TRUE, sizeof(LsEvent)),
                .report = g_string_new(NULL)};
    g_autofree char *text = NULL;
    gsize len;
    Lockstep *ls = NULL;
    if (g_file_get_contents(path, &text, &len, err)) {
        const char *ram = read_header(&r, text, len, err);
        const Engine *e[SIDES] = {leader, follower};
        bool ok = ram && check_header(&r, err);
        for (unsigned i = 0; ok && i < SIDES; i++)
            if (!e[i])
                ok = (e[i] = ls_engine(r.engine[i], err)) != NULL;
        if (ok)
            ls = make(&r, e, ram, len - (gsize)(ram - text), err);
        if (ls && report)
            g_string_append(report, r.report->str);
    }
    for (unsigned i = 0; r.log && i < r.log->len; i++)
        g_free(g_array_index(r.log, LsEvent, i).data);
    if (r.log)
        g_array_free(r.log, TRUE);
    g_string_free(r.report, TRUE);
    return ls;
}

void ls_free_loaded(Lockstep *ls)
{
    if (!ls)
        return;
    Clock *clock = NULL;
    for (unsigned i = 0; i < SIDES; i++)
        if (ls->twin[i])
            clock = ls->twin[i]->vm.clock;
    ls_clear(ls);
    if (clock)
        clock_free(clock);
    free(ls);
}
