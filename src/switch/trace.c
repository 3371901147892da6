/* See trace.h. The format: "Trace Event Format", JSON array form; times in microseconds. */
#include "switch/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

struct EngineTrace {
    GMutex lock;
    int fd;
    off_t end; /* where the closing bracket is */
    bool any, failed;
    uint64_t start_ns;
    const Symbols *symbols;
    char *path;
    uint64_t open[64]; /* vCPUs with a begun engine */
};

static const char closing[] = "\n]\n";

/* A write inside one page of the file is done wholly or not at all, even if we are killed. */
#define PAGE 4096

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void quote(GString *out, const char *text)
{
    g_string_append_c(out, '"');
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            g_string_append_printf(out, "\\%c", *p);
        else if ((unsigned char)*p < 0x20)
            g_string_append_printf(out, "\\u%04x", *p);
        else
            g_string_append_c(out, *p);
    }
    g_string_append_c(out, '"');
}

/* Blanks the closing bracket out, and what is left of the page: what comes would not fit. */
static bool to_next_page(EngineTrace *t)
{
    size_t rest = (size_t)(PAGE - t->end % PAGE);
    g_autofree char *blanks = g_strnfill(rest, ' ');
    if (pwrite(t->fd, blanks, rest, t->end) != (ssize_t)rest)
        return false;
    t->end += (off_t)rest;
    return true;
}

/* Lock held. events: one or more, separated by ",\n". */
static void put(EngineTrace *t, GString *events)
{
    if (t->failed)
        return;
    g_string_prepend(events, t->any ? ",\n" : "[\n");
    size_t len = events->len;
    g_string_append(events, closing);
    bool fits = t->end % PAGE + (off_t)events->len <= PAGE;
    ssize_t n = -1;
    if (fits || to_next_page(t))
        n = pwrite(t->fd, events->str, events->len, t->end);
    if (n != (ssize_t)events->len) {
        t->failed = true;
        warn_user("-trace-engines %s: %s; the trace ends here", t->path,
                  n < 0 ? g_strerror(errno) : "no room");
        /* What is there stays readable. */
        if (ftruncate(t->fd, t->end) == 0 && pwrite(t->fd, closing, strlen(closing), t->end) < 0)
            return;
        return;
    }
    t->any = true;
    t->end += (off_t)len;
}

/* The beginning of every event. */
static void event(GString *s, const char *ph, int tid, const char *name)
{
    g_string_append_printf(s, "{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d,\"name\":", ph, (int)getpid(),
                           tid);
    quote(s, name);
}

static void at(const EngineTrace *t, GString *s, uint64_t ns)
{
    uint64_t since = ns > t->start_ns ? ns - t->start_ns : 0;
    g_string_append_printf(s, ",\"ts\":%" G_GUINT64_FORMAT ".%03u", since / 1000,
                           (unsigned)(since % 1000));
}

EngineTrace *engine_trace_open(const char *path, const char *name, const Symbols *symbols,
                               GError **err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-trace-engines %s: %s", path, g_strerror(errno));
        return NULL;
    }
    if (lseek(fd, 0, SEEK_CUR) < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "-trace-engines %s: not a file in which one can write again what is behind",
                    path);
        close(fd);
        return NULL;
    }
    EngineTrace *t = g_new0(EngineTrace, 1);
    g_autoptr(GString) s = g_string_new(NULL);
    g_mutex_init(&t->lock);
    t->fd = fd;
    t->path = g_strdup(path);
    t->symbols = symbols;
    t->start_ns = now_ns();
    event(s, "M", 0, "process_name");
    g_autofree char *process = g_strconcat("tandem ", name, NULL);
    g_string_append(s, ",\"args\":{\"name\":");
    quote(s, name ? process : "tandem");
    g_string_append(s, "}}");
    put(t, s);
    return t;
}

void engine_trace_close(EngineTrace *t)
{
    if (!t)
        return;
    uint64_t now = now_ns();
    for (int cpu = 0; cpu < (int)ARRAY_LEN(t->open); cpu++) {
        g_autoptr(GString) s = g_string_new(NULL);
        if (!t->open[cpu])
            continue;
        event(s, "E", cpu, "end");
        at(t, s, now);
        g_string_append_c(s, '}');
        put(t, s);
    }
    close(t->fd);
    g_mutex_clear(&t->lock);
    g_free(t->path);
    g_free(t);
}

static void begin(EngineTrace *t, GString *s, int cpu, const char *engine, uint64_t ns)
{
    event(s, "B", cpu, engine);
    at(t, s, ns);
    g_string_append(s, ",\"cat\":\"engine\"}");
    if (cpu < (int)ARRAY_LEN(t->open))
        t->open[cpu] = 1;
}

void engine_trace_begin(EngineTrace *t, const Vcpu *v)
{
    g_autoptr(GString) s = g_string_new(NULL);
    event(s, "M", v->id, "thread_name");
    g_string_append_printf(s, ",\"args\":{\"name\":\"cpu %d\"}},\n", v->id);
    g_mutex_lock(&t->lock);
    begin(t, s, v->id, v->engine->name, now_ns());
    put(t, s);
    g_mutex_unlock(&t->lock);
}

/* What VM-entry checks noted: an object, the value by the check's name. */
static void append_noted(GString *s, const CheckNotes *n)
{
    CheckInfo c;
    if (!n || !n->n)
        return;
    g_string_append(s, ",\"checks noted\":{");
    for (unsigned i = 0; i < MIN_OF(n->n, n->max); i++) {
        if (!vmentry_check_info(n->note[i].check, &c))
            continue;
        g_string_append_printf(s, "%s\"%s\":", i ? "," : "", c.name);
        quote(s, n->note[i].why);
    }
    g_string_append_c(s, '}');
}

void engine_trace_switch(EngineTrace *t, const Vcpu *v, const TracedSwitch *w)
{
    g_autoptr(GString) s = g_string_new(NULL);
    char sym[SYMBOL_TEXT];
    g_mutex_lock(&t->lock);
    if (!w->error) {
        event(s, "E", v->id, w->from->name);
        at(t, s, w->start_ns);
        g_string_append(s, "},\n");
    }
    event(s, w->error ? "i" : "X", v->id, w->error ? "switch refused" : "switch");
    at(t, s, w->start_ns);
    if (w->error)
        g_string_append(s, ",\"s\":\"t\"");
    else
        g_string_append_printf(s, ",\"dur\":%.3f", (double)(w->end_ns - w->start_ns) / 1000);
    g_string_append_printf(
        s,
        ",\"cat\":\"switch\",\"args\":{\"from\":\"%s\",\"to\":\"%s\",\"rip\":\"%#" G_GINT64_MODIFIER
        "x\"",
        w->from->name, w->to->name, v->st.rip);
    if (*symbols_text(t->symbols, v->st.rip, sym)) {
        g_string_append(s, ",\"symbol\":");
        quote(s, sym);
    }
    g_string_append(s, ",\"why\":");
    quote(s, w->why);
    if (w->error) {
        g_string_append(s, ",\"error\":");
        quote(s, w->error);
    } else {
        for (unsigned i = 0; i < STEP_N; i++)
            g_string_append_printf(s, ",\"%s us\":%.3f", switch_step_name[i],
                                   (double)w->step_ns[i] / 1000);
        g_string_append_printf(s, ",\"fields changed\":%u", w->fields);
        append_noted(s, w->noted);
    }
    g_string_append(s, "}}");
    if (!w->error) {
        g_string_append(s, ",\n");
        begin(t, s, v->id, w->to->name, w->end_ns);
    }
    put(t, s);
    g_mutex_unlock(&t->lock);
}
