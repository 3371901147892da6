/* The kinds of triggers: what their values mean, and what run() must stop at for them. */
#include <string.h>

#include "base/log.h"
#include "base/nearest.h"
#include "kvm/kvm.h"
#include "switch/policy_priv.h"

bool policy_error(GError **err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error_literal(err, TANDEM_ERROR, ERR_USAGE, text);
    return false;
}

const Engine *policy_target(const Policy *p, const Vcpu *v)
{
    const Policies *all = p->all;
    if (p->to)
        return p->to;
    if (v->engine == all->kvm)
        return all->tcg;
    if (all->kvm)
        return all->kvm;
    return v->engine == all->interp ? all->jit : all->interp;
}

static bool software(const Engine *e)
{
    return e && e->is_software;
}

/* ---- values ---- */

/* "10ms", "250us", "1s", "5000insn". */
static bool parse_span(const char *key, const char *text, Span *s, GError **err)
{
    static const struct {
        const char *unit;
        uint64_t ns;
    } units[] = {{"us", 1000}, {"ms", 1000000}, {"s", NS_PER_S}, {"insn", 0}};
    char *end;
    uint64_t n = g_ascii_isdigit(*text) ? g_ascii_strtoull(text, &end, 10) : 0;
    if (!g_ascii_isdigit(*text))
        return policy_error(err, "%s=%s: not a number with a unit: 10ms, 250us, 1s or 5000insn",
                            key, text);
    for (unsigned i = 0; i < ARRAY_LEN(units); i++) {
        if (strcmp(end, units[i].unit) != 0)
            continue;
        if (!n)
            return policy_error(err, "%s=%s: must be more than nothing", key, text);
        if (units[i].ns ? n > 3600 * NS_PER_S / units[i].ns : n > 1ull << 62)
            return policy_error(err, "%s=%s: too long; an hour is the most", key, text);
        *s = units[i].ns ? (Span){.ns = n * units[i].ns} : (Span){.insns = n};
        return true;
    }
    return policy_error(err, "%s=%s: '%s' is no unit; there are us, ms, s and insn", key, text,
                        end);
}

static bool unknown_symbol(const Symbols *s, const char *text, const char *name, GError **err)
{
    const char *near = symbols_nearest(s, name);
    if (!symbols_count(s))
        return policy_error(err,
                            "%s: no symbol '%s': there are no symbols at all; -symbols FILE or an "
                            "ELF -kernel bring them",
                            text, name);
    if (near)
        return policy_error(err, "%s: no symbol '%s'; did you mean '%s'?", text, name, near);
    return policy_error(err, "%s: no symbol '%s' among %u", text, name, symbols_count(s));
}

/* "0x1234", "schedule", "schedule+0x10". size: of the symbol alone, else 0. */
static bool parse_address(const Symbols *symbols, const char *text, gva_t *addr, uint64_t *size,
                          GError **err)
{
    size_t len = strcspn(text, "+-");
    g_autofree char *name = g_strndup(text, len);
    char *end;
    *size = 0;
    if (!*name)
        return policy_error(err, "'%s' is not an address", text);
    if (g_ascii_isdigit(*name)) {
        *addr = g_ascii_strtoull(name, &end, 0);
        if (*end)
            return policy_error(err, "'%s' is not an address", text);
    } else if (!symbols_find(symbols, name, addr, size)) {
        return unknown_symbol(symbols, text, name, err);
    }
    if (!text[len])
        return true;
    uint64_t more = g_ascii_strtoull(text + len + 1, &end, 0);
    if (!g_ascii_isdigit(text[len + 1]) || *end)
        return policy_error(err, "'%s' is not an address", text);
    *addr = text[len] == '+' ? *addr + more : *addr - more;
    *size = 0;
    return true;
}

/* ---- at ---- */

static void stop_at(PolicyLoop *l, Policy *p, gva_t addr)
{
    if (l->stops.n_addr == STOPS_MAX)
        return;
    l->owner_of[l->stops.n_addr] = p;
    l->stops.addr[l->stops.n_addr++] = addr;
}

static bool parse_at(Policy *p, const char *value, GError **err)
{
    uint64_t size;
    return parse_address(p->all->env.symbols, value, &p->addr, &size, err);
}

static void arm_at(Policy *p, PolicyLoop *l, const Vcpu *v)
{
    if (v->engine != policy_target(p, v))
        stop_at(l, p, p->addr);
}

/* ---- every ---- */

static uint64_t span_of(Span s)
{
    return s.ns ? s.ns : s.insns;
}

uint64_t policy_next_span(const Policy *p, uint64_t *random)
{
    uint64_t least = span_of(p->every), most = span_of(p->longest);
    if (most <= least)
        return least;
    *random ^= *random << 13; /* xorshift64: never 0 */
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return least + *random % (most - least + 1);
}

static bool parse_every(Policy *p, const char *value, GError **err)
{
    const char *dots = strstr(value, "..");
    g_autofree char *least = dots ? g_strndup(value, (gsize)(dots - value)) : g_strdup(value);
    if (!parse_span("every", least, &p->every, err) ||
        (dots && !parse_span("every", dots + 2, &p->longest, err)))
        return false;
    if (dots && !p->every.ns != !p->longest.ns)
        return policy_error(err, "every=%s: from a time to a time, or from a count to a count",
                            value);
    if (dots && span_of(p->longest) < span_of(p->every))
        return policy_error(err, "every=%s: the shorter one comes first", value);
    if (p->every.ns && p->every.ns < 50000)
        return policy_error(err, "every=%s: a switch alone can take longer; 50us is the least",
                            value);
    return true;
}

static void arm_every(Policy *p, PolicyLoop *l, const Vcpu *v)
{
    PolicyCpu *c = &p->per[v->id];
    if (!p->every.insns || !software(v->engine) || v->engine == policy_target(p, v))
        c->due = 0;
    else if (!c->due)
        c->due = v->insns + policy_next_span(p, &c->random);
}

/* ---- on ---- */

static bool parse_on(Policy *p, const char *value, GError **err)
{
    static const char key[] = "exit:";
    bool exit = g_str_has_prefix(value, key);
    const char *name = exit ? value + strlen(key) : value, *row;
    unsigned reason;
    if (!exit && strcmp(value, "internal-error") != 0) {
        Nearest near = {.typed = value};
        nearest_offer(&near, "internal-error");
        return policy_error(err, "on=%s: there are on=exit:REASON and on=internal-error%s", value,
                            near.best ? "; did you mean the latter?" : "");
    }
    if (!kvm_exit_find(name, &reason)) {
        Nearest near = {.typed = name};
        g_autoptr(GString) list = g_string_new(NULL);
        for (unsigned i = 0; (row = kvm_exit_row(i, &reason)); i++) {
            nearest_offer(&near, row);
            g_string_append_printf(list, "%s%s", i ? ", " : "", row);
        }
        if (near.best)
            return policy_error(err, "on=%s: no exit '%s'; did you mean '%s'?", value, name,
                                near.best);
        return policy_error(err, "on=%s: no exit '%s'; there are %s", value, name, list->str);
    }
    if (!p->all->kvm)
        return policy_error(err, "on=%s: only KVM has exits, and this machine has no KVM", value);
    p->errors = !strcmp(name, "internal-error") || !strcmp(name, "fail-entry");
    p->exits = BIT(reason);
    return true;
}

static void arm_on(Policy *p, PolicyLoop *l, const Vcpu *v)
{
    if (v->engine != policy_target(p, v))
        l->stops.exits |= p->exits;
}

/* ---- when ---- */

static bool parse_when(Policy *p, const char *value, GError **err)
{
    bool zero = !strcmp(value, "cpl0");
    if (!zero && strcmp(value, "cpl3") != 0)
        return policy_error(err, "when=%s: there are when=cpl0 and when=cpl3", value);
    p->cpl = zero ? 1 << 0 : 1 << 3;
    return true;
}

static void arm_when(Policy *p, PolicyLoop *l, const Vcpu *v)
{
    if (l->active == p) {
        l->stops.cpl |= (uint8_t)(~p->cpl & 0xf);
    } else if (v->engine != policy_target(p, v)) {
        if (software(v->engine))
            l->stops.cpl |= p->cpl;
        else
            l->stops.exits = ~0ull; /* KVM tells nobody: it is looked at whenever KVM is left */
    }
}

/* ---- region ---- */

bool policy_parse_region(const Symbols *symbols, const char *value, gva_t *lo, gva_t *hi,
                         GError **err)
{
    const char *dots = strstr(value, "..");
    uint64_t size;
    g_autofree char *from = dots ? g_strndup(value, (gsize)(dots - value)) : g_strdup(value);
    if (!parse_address(symbols, from, lo, &size, err))
        return false;
    if (!dots && !size)
        return policy_error(err, "region=%s: where does it end? FROM..TO, or a symbol alone",
                            value);
    *hi = *lo + size;
    if (dots && !parse_address(symbols, dots + 2, hi, &size, err))
        return false;
    if (*hi <= *lo)
        return policy_error(err, "region=%s: it ends before it begins", value);
    return true;
}

static bool parse_region(Policy *p, const char *value, GError **err)
{
    return policy_parse_region(p->all->env.symbols, value, &p->addr, &p->end, err);
}

static void arm_region(Policy *p, PolicyLoop *l, const Vcpu *v)
{
    if (l->active == p) {
        l->stops.lo = p->addr;
        l->stops.hi = p->end;
    } else if (v->engine != policy_target(p, v)) {
        stop_at(l, p, p->addr);
        if (p->per[v->id].resume)
            stop_at(l, p, p->per[v->id].resume);
    }
}

/* ---- the table ---- */

/* clang-format off */
const PolicyKindRow policy_kinds[POLICY_KINDS] = {
#define KIND(name, form, help) {#name, form, help, parse_##name, arm_##name},
#include "switch/policy_kinds.def"
#undef KIND
};
/* clang-format on */

void policies_help(GString *out)
{
    g_string_append(out, "KIND=VALUE[,to=ENGINE][,cpu=N][,for=TIME|COUNTinsn]\n");
    for (unsigned i = 0; i < POLICY_KINDS; i++) {
        g_autofree char *usage =
            g_strdup_printf("%s=%s", policy_kinds[i].name, policy_kinds[i].form);
        g_string_append_printf(out, "  %-32s %s\n", usage, policy_kinds[i].help);
    }
    g_string_append(out, "  to=kvm|tcg|jit|interp|other      default tcg; of every: other\n"
                         "  cpu=N                            this vCPU alone\n"
                         "  for=TIME|COUNTinsn               and back again after that\n");
}

/* ---- a whole policy ---- */

static bool parse_to(Policy *p, const char *name, GError **err)
{
    static const char *const names[] = {"kvm", "tcg", "jit", "interp", "other"};
    Nearest near = {.typed = name};
    bool known = false;
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        known |= !strcmp(name, names[i]);
        nearest_offer(&near, names[i]);
    }
    if (!known)
        return policy_error(err,
                            near.best ? "to=%s: no such engine; did you mean '%s'?"
                                      : "to=%s: no such engine; there are kvm, tcg, jit, "
                                        "interp and other",
                            name, near.best);
    p->to = NULL;
    if (!strcmp(name, "other"))
        return true;
    p->to = p->all->env.engine(p->all->env.opaque, name, err);
    if (!p->to)
        g_prefix_error(err, "to=%s: ", name);
    return p->to != NULL;
}

static bool parse_cpu(Policy *p, const char *value, GError **err)
{
    guint64 n;
    if (!g_ascii_string_to_unsigned(value, 10, 0, UINT32_MAX, &n, NULL))
        return policy_error(err, "cpu=%s: not a number", value);
    if (n >= p->all->env.vm->n_vcpus)
        return policy_error(err, "cpu=%s: there are 0 to %u", value, p->all->env.vm->n_vcpus - 1);
    p->cpu = (int)n;
    return true;
}

static bool unknown_key(const char *key, GError **err)
{
    Nearest near = {.typed = key};
    for (unsigned i = 0; i < POLICY_KINDS; i++)
        nearest_offer(&near, policy_kinds[i].name);
    nearest_offer(&near, "to");
    nearest_offer(&near, "cpu");
    nearest_offer(&near, "for");
    if (near.best)
        return policy_error(err, "no '%s'; did you mean '%s'?", key, near.best);
    return policy_error(err, "no '%s'; there are at, every, on, when, region, to, cpu and for",
                        key);
}

enum { SAID_TO, SAID_CPU, SAID_FOR };

/* `said` has a bit for each of to, cpu and for that was there before. */
static bool once(const char *key, unsigned bit, unsigned *said, GError **err)
{
    if (*said & 1u << bit)
        return policy_error(err, "%s= is there twice", key);
    *said |= 1u << bit;
    return true;
}

static bool parse_word(Policy *p, const char *key, const char *value, unsigned *said, GError **err)
{
    for (unsigned i = 0; i < POLICY_KINDS; i++) {
        if (strcmp(key, policy_kinds[i].name) != 0)
            continue;
        if (p->kind != POLICY_KINDS)
            return policy_error(err, "%s= and %s=: one trigger a policy",
                                policy_kinds[p->kind].name, key);
        p->kind = (enum PolicyKind)i;
        return policy_kinds[i].parse(p, value, err);
    }
    if (!strcmp(key, "to"))
        return once(key, SAID_TO, said, err) && parse_to(p, value, err);
    if (!strcmp(key, "cpu"))
        return once(key, SAID_CPU, said, err) && parse_cpu(p, value, err);
    if (!strcmp(key, "for"))
        return once(key, SAID_FOR, said, err) && parse_span("for", value, &p->stay, err);
    return unknown_key(key, err);
}

/* What KVM would have to tell and does not. */
static bool possible(const Policy *p, GString *warning, GError **err)
{
    const char *kind = policy_kinds[p->kind].name;
    bool stays = p->stay.ns || p->stay.insns;
    if ((p->kind == POLICY_when || p->kind == POLICY_region) && !software(p->to))
        return policy_error(err,
                            "%s= with to=%s: only a software engine can tell when the guest leaves "
                            "again; KVM runs on without a word",
                            kind, p->to ? p->to->name : "other");
    if ((p->kind == POLICY_when || p->kind == POLICY_region) && stays)
        return policy_error(err, "%s= and for=: it ends by itself, when the guest leaves", kind);
    if (p->kind == POLICY_on && !software(p->to))
        return policy_error(err, "on= with to=%s: only KVM has exits, so it leads out of KVM",
                            p->to ? p->to->name : "other");
    if (p->stay.insns && !software(p->to) && p->to)
        return policy_error(err,
                            "for=%" G_GUINT64_FORMAT "insn with to=kvm: KVM does not count "
                            "instructions; a time works",
                            p->stay.insns);
    if (p->every.insns && p->all->kvm && p->to != p->all->kvm)
        g_string_append(warning, "instructions are counted in the software engine; while a vCPU is "
                                 "in KVM it does not fire\n");
    if (p->kind == POLICY_when && p->all->kvm)
        g_string_append(warning,
                        "KVM does not tell when the privilege level changes: a vCPU in KVM "
                        "is looked at whenever KVM is left, and comes later than it "
                        "could; it goes back exactly\n");
    return true;
}

bool policy_parse(Policy *p, const char *text, GString *warning, GError **err)
{
    unsigned said = 0;
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    p->kind = POLICY_KINDS;
    p->cpu = -1;
    p->timer_fd = -1;
    for (char **w = words; *w; w++) {
        char *eq = strchr(*w, '=');
        if (!eq || !eq[1])
            return policy_error(err, "'%s' has no value; a policy is like at=SYMBOL,to=tcg", *w);
        *eq = 0;
        if (!parse_word(p, *w, eq + 1, &said, err))
            return false;
    }
    if (p->kind == POLICY_KINDS)
        return policy_error(err, "says not when: at=, every=, on=, when= or region= is missing");
    if (!(said & 1u << SAID_TO) && p->kind != POLICY_every)
        p->to = p->all->tcg;
    return possible(p, warning, err);
}

void policy_clear(Policy *p)
{
    g_free(p->text);
    g_free(p->per);
}
