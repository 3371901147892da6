/*
 * See record_rip.h.
 *
 * In the software engine the run loop calls back before each instruction in the range
 * (RunStops.step). Under KVM a range is entered by a breakpoint and then single-stepped, with no
 * interrupt in a step: when one waits, the vCPU runs on with a breakpoint on the instruction it
 * stands at, so that the handler runs at full speed and recording goes on when it returns. The
 * range is entered again in the same way when a call out of it returns.
 */
#include "switch/record_rip.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "switch/policy_priv.h"

#define FILE_FIRST_LINE "tandem rip 1\n"
#define BUFFER          65536

typedef struct RipCpu { /* its vCPU's thread's */
    RunStops stops;
    RunLimit limit;
    gva_t last, resume;
    bool any, inside, waits, said;
} RipCpu;

struct RipRecord {
    GMutex lock; /* over everything down to `cpu` */
    int fd;
    uint8_t *buf;
    size_t used;
    int current; /* the vCPU the file is at; -1: none */
    int error;   /* errno of a write that failed */
    uint64_t n;
    char *text;
    gva_t lo, hi; /* hi 0: everything */
    int only;     /* this vCPU, or -1 */
    RipCpu *cpu;
};

/* ---- writing ---- */

static void flush(RipRecord *r)
{
    for (size_t at = 0; at < r->used && !r->error;) {
        ssize_t n = write(r->fd, r->buf + at, r->used - at);
        if (n < 0 && errno != EINTR)
            r->error = errno;
        at += n > 0 ? (size_t)n : 0;
    }
    r->used = 0;
}

static void put_number(RipRecord *r, uint64_t hi, uint64_t lo)
{
    /* 65 bits: the zigzag of a distance, and the bit that tells it from a vCPU. */
    unsigned __int128 x = (unsigned __int128)hi << 64 | lo;
    do {
        uint8_t b = x & 0x7f;
        x >>= 7;
        r->buf[r->used++] = b | (x ? 0x80 : 0);
    } while (x);
}

static void note(RipRecord *r, RipCpu *c, int cpu, gva_t lin)
{
    if (c->any && lin == c->last)
        return;
    g_mutex_lock(&r->lock);
    if (r->used + 64 > BUFFER)
        flush(r);
    if (r->current != cpu) {
        put_number(r, 0, (uint64_t)cpu << 1 | 1);
        r->current = cpu;
    }
    uint64_t distance = lin - c->last;
    uint64_t zigzag = distance << 1 ^ (uint64_t)((int64_t)distance >> 63);
    put_number(r, zigzag >> 63, zigzag << 1);
    r->n++;
    g_mutex_unlock(&r->lock);
    c->last = lin;
    c->any = true;
}

static void on_step(Vcpu *v, gva_t lin)
{
    RipRecord *r = v->vm->rip_record;
    note(r, &r->cpu[v->id], v->id, lin);
}

/* ---- the vCPU loop's part ---- */

static bool in_range(const RipRecord *r, gva_t lin)
{
    return !r->hi || (lin >= r->lo && lin < r->hi);
}

static const RunLimit *in_software(const RipRecord *r, RipCpu *c)
{
    c->stops = (RunStops){.step = on_step, .step_lo = r->lo, .step_hi = r->hi};
    c->limit = (RunLimit){.stops = &c->stops};
    c->inside = c->waits = false;
    c->resume = 0;
    return &c->limit;
}

static bool where(Vcpu *v, gva_t *lin)
{
    if (v->where == ST_IN_ENGINE && !v->engine->export_state(v, GRP_REGS | GRP_SREGS, NULL))
        return false;
    *lin = cpu_code64(&v->st) ? v->st.rip : (uint32_t)(v->st.seg[CS].base + v->st.rip);
    return true;
}

static const RunLimit *outside(const RipRecord *r, RipCpu *c)
{
    c->stops = (RunStops){.n_addr = 1, .addr = {r->lo}};
    if (c->resume && c->resume != r->lo)
        c->stops.addr[c->stops.n_addr++] = c->resume;
    c->limit = (RunLimit){.stops = &c->stops};
    return &c->limit;
}

static const RunLimit *in_kvm(const RipRecord *r, RipCpu *c, Vcpu *v)
{
    gva_t lin;
    if (!r->hi) {
        if (!c->said)
            warn_user("record-rip: cpu %d is in KVM, where only a region= is recorded", v->id);
        c->said = true;
        return NULL;
    }
    if (!where(v, &lin))
        return NULL;
    if (c->waits && !in_range(r, lin))
        return outside(r, c); /* the handler is at work */
    c->inside |= !c->any && in_range(r, lin);
    if (c->inside && !in_range(r, lin)) {
        c->inside = false;
        c->resume = way_back(r->lo, r->hi, v);
    }
    if (!c->inside)
        return outside(r, c);
    note(v->vm->rip_record, c, v->id, lin);
    uint32_t req = atomic_load(&v->request);
    bool interrupt = req & VREQ_NMI || (req & VREQ_INTR && v->st.rflags & FL_IF);
    if (interrupt && !c->waits) { /* its handler first */
        c->waits = true;
        c->resume = lin;
        return outside(r, c);
    }
    c->waits = false;
    c->limit = (RunLimit){.max_insns = 1, .caller_events = true};
    return &c->limit;
}

const RunLimit *rip_record_limit(VcpuLoop *l)
{
    Vcpu *v = l->v;
    RipRecord *r = v->vm->rip_record;
    if (likely(!r) || (r->only >= 0 && r->only != v->id))
        return NULL;
    RipCpu *c = &r->cpu[v->id];
    return v->engine->is_software ? in_software(r, c) : in_kvm(r, c, v);
}

bool rip_record_exit(VcpuLoop *l, const Exit *e)
{
    RipRecord *r = l->v->vm->rip_record;
    if (e->kind != EXIT_STOP)
        return e->kind == EXIT_LIMIT;
    r->cpu[l->v->id].inside = true;
    return true;
}

/* ---- starting and ending ---- */

static bool parse(RipRecord *r, const VmCommon *vm, const Symbols *symbols, char **words,
                  GError **err)
{
    for (char **w = words; *w; w++) {
        guint64 n;
        if (g_str_has_prefix(*w, "region=")) {
            if (!policy_parse_region(symbols, *w + strlen("region="), &r->lo, &r->hi, err))
                return false;
        } else if (g_str_has_prefix(*w, "cpu=")) {
            if (!g_ascii_string_to_unsigned(*w + 4, 10, 0, vm->n_vcpus - 1, &n, NULL))
                return policy_error(err, "%s: there are 0 to %u", *w, vm->n_vcpus - 1);
            r->only = (int)n;
        } else {
            return policy_error(err, "no '%s'; there are region=FROM..TO and cpu=N", *w);
        }
    }
    return true;
}

bool rip_record_start(VmCommon *vm, const Symbols *symbols, const char *text, GError **err)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    if (vm->rip_record)
        return policy_error(err, "record-rip: %s is being written; 'record-rip stop' ends it",
                            ((RipRecord *)vm->rip_record)->text);
    if (!words[0] || !*words[0])
        return policy_error(err, "record-rip: the file's name is missing");
    RipRecord *r = g_new0(RipRecord, 1);
    r->only = r->current = -1;
    if (!parse(r, vm, symbols, words + 1, err)) {
        g_prefix_error(err, "record-rip: ");
        g_free(r);
        return false;
    }
    r->fd = open(words[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (r->fd < 0) {
        policy_error(err, "record-rip: %s: %s", words[0], g_strerror(errno));
        g_free(r);
        return false;
    }
    g_mutex_init(&r->lock);
    r->buf = g_malloc(BUFFER);
    r->cpu = g_new0(RipCpu, vm->n_vcpus);
    r->text = g_strdup(text);
    memcpy(r->buf, FILE_FIRST_LINE, strlen(FILE_FIRST_LINE));
    r->used = strlen(FILE_FIRST_LINE);
    vm->rip_record = r;
    return true;
}

bool rip_record_stop(VmCommon *vm, uint64_t *n, GError **err)
{
    RipRecord *r = vm->rip_record;
    if (!r)
        return policy_error(err, "record-rip: nothing is being recorded");
    vm->rip_record = NULL;
    flush(r);
    *n = r->n;
    bool ok = !r->error || policy_error(err, "record-rip: %s: %s", r->text, g_strerror(r->error));
    close(r->fd);
    g_mutex_clear(&r->lock);
    g_free(r->buf);
    g_free(r->cpu);
    g_free(r->text);
    g_free(r);
    return ok;
}

void rip_record_describe(const VmCommon *vm, GString *out)
{
    RipRecord *r = vm->rip_record;
    if (!r) {
        g_string_append(out, "nothing is being recorded\n");
        return;
    }
    g_mutex_lock(&r->lock);
    g_string_append_printf(out, "%s: %" G_GUINT64_FORMAT " instructions%s%s\n", r->text, r->n,
                           r->error ? ", the file cannot be written: " : "",
                           r->error ? g_strerror(r->error) : "");
    g_mutex_unlock(&r->lock);
}

/* ---- reading ---- */

static bool get_number(const uint8_t **p, const uint8_t *end, unsigned __int128 *x)
{
    *x = 0;
    for (unsigned shift = 0; *p < end && shift < 70; shift += 7) {
        uint8_t b = *(*p)++;
        *x |= (unsigned __int128)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return true;
    }
    return false;
}

bool rip_record_dump(const char *path, const Symbols *symbols, FILE *out, GError **err)
{
    g_autofree char *data = NULL;
    gsize size;
    gva_t last[256] = {0};
    unsigned cpu = 0;
    if (!g_file_get_contents(path, &data, &size, err))
        return false;
    size_t head = strlen(FILE_FIRST_LINE);
    if (size < head || memcmp(data, FILE_FIRST_LINE, head) != 0)
        return policy_error(err, "%s: not a file of record-rip", path);
    const uint8_t *p = (const uint8_t *)data + head, *end = (const uint8_t *)data + size;
    while (p < end) {
        unsigned __int128 x;
        char at[SYMBOL_TEXT];
        if (!get_number(&p, end, &x))
            return policy_error(err, "%s: it breaks off", path);
        uint64_t half = (uint64_t)(x >> 1);
        if (x & 1) {
            if (half >= ARRAY_LEN(last))
                return policy_error(err, "%s: damaged: vCPU %" G_GUINT64_FORMAT, path, half);
            cpu = (unsigned)half;
            continue;
        }
        last[cpu] += half >> 1 ^ -(half & 1);
        fprintf(out, "%u %016" G_GINT64_MODIFIER "x %s\n", cpu, last[cpu],
                symbols_text(symbols, last[cpu], at));
    }
    return true;
}
