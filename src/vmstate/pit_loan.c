#include "vmstate/pit_loan.h"

enum { BOTH = 3, HIGH = 2, NO_MODE = 0xff };

static bool periodic(unsigned mode)
{
    return mode == 2 || mode == 3;
}

/* Modes 0 and 4 begin with the count, 1 and 5 with a trigger. */
static bool by_trigger(unsigned mode)
{
    return mode == 1 || mode == 5;
}

static uint64_t elapsed(const PitCounter *c, uint64_t now)
{
    uint64_t t = c->held ? c->held : now;
    return t > c->start ? t - c->start : 0;
}

static uint64_t tick_of(uint64_t ns, const PitLook *look)
{
    __int128 ago = (__int128)look->at_ns - ns;
    return look->at - (uint64_t)(int64_t)(ago * (int64_t)PIT_HZ / 1000000000);
}

/* ---- to KVM ---- */

static KvmPitCounter form(const PitCounter *c)
{
    unsigned latched = !c->latched         ? 0
                       : c->access != BOTH ? c->access
                       : c->latch_high     ? HIGH
                                           : BOTH;
    return (KvmPitCounter){
        .mode = c->untouched ? NO_MODE : c->mode,
        .access = c->untouched ? 0 : c->access,
        .bcd = c->bcd,
        .gate = c->gate,
        .low = c->low,
        .write_state = (uint8_t)(c->untouched                         ? 0
                                 : c->access == BOTH && c->write_high ? 4
                                                                      : c->access),
        .read_state = (uint8_t)(c->untouched                        ? 0
                                : c->access == BOTH && c->read_high ? 4
                                                                    : c->access),
        .latched = (uint8_t)latched,
        .latch = c->latch,
        .status_latched = c->status_latched,
        .status = c->status,
    };
}

/* Of counters 1 and 2, which raise nothing. Their periods begin anew there. */
static uint32_t count_for(const PitCounter *c, uint64_t now)
{
    uint64_t d = elapsed(c, now);
    if (!c->n)
        return 0x10000;
    if (by_trigger(c->mode)) /* KVM counts it again at each trigger */
        return c->next ? c->next : c->n;
    if (periodic(c->mode))
        return c->n;
    if (d < c->n)
        return c->n - (uint32_t)d;
    /* It is over: OUT is high in mode 0, and in mode 4 all but once. */
    return c->mode == 0 ? 1 : 0x10000 + (uint16_t)(c->n - d);
}

/* 16 bits of counter 0, to be seen in a count that does not end. */
static uint16_t seen(const PitCounter *c, uint64_t now)
{
    uint64_t d = elapsed(c, now);
    if (!c->n)
        return 0;
    if (periodic(c->mode))
        d = (c->mode == 3 ? 2 * d : d) % c->n;
    return (uint16_t)(c->n - d);
}

void pit_lend(const PitState *s, uint64_t now, bool each, KvmPit *k, PitLoan *loan)
{
    const PitCounter *c = &s->c[0];
    *k = (KvmPit){.hpet_legacy = s->hpet_legacy, .speaker = s->port_b >> 1 & 1};
    for (unsigned i = 0; i < ARRAY_LEN(k->c); i++) {
        k->c[i] = form(&s->c[i]);
        k->c[i].count = count_for(&s->c[i], now);
    }
    loan->at = now;
    loan->ticks = PIT_NONE;
    if (c->untouched || s->hpet_legacy || c->mode == 5)
        return;
    if (!s->due || (periodic(c->mode) && !each)) { /* KVM raises none */
        k->c[0].count = PIT_NEVER + seen(c, now);
    } else if (periodic(c->mode)) {
        loan->ticks = PIT_EACH;
    } else {
        loan->ticks = PIT_ONCE;
        k->c[0].count = s->due > now ? (uint32_t)(s->due - now) : 1;
    }
}

/* ---- and back ---- */

void pit_ends(const KvmPit *k, const PitLook *look, uint64_t *last, uint64_t *next)
{
    const KvmPitCounter *c = &k->c[0];
    *last = *next = 0;
    if (k->hpet_legacy || c->mode == NO_MODE || c->mode == 5 || !c->count)
        return;
    if (periodic(c->mode)) {
        uint32_t n = c->count, count = look->count ? look->count : 0x10000,
                 at = n - MIN_OF(count, n);
        if (c->mode == 3) /* by two, twice a period */
            at = at / 2 + (look->out ? 0 : (n + 1) / 2);
        *last = look->at - at;
        *next = *last + n;
    } else if (c->count < PIT_NEVER) {
        uint64_t end = look->at + (look->out     ? -(uint64_t)(uint16_t)-look->count
                                   : look->count ? look->count
                                                 : 0x10000u);
        *(look->out ? last : next) = end;
    }
}

static void take_form(PitCounter *c, const KvmPitCounter *k)
{
    c->gate = k->gate;
    c->write_high = k->write_state == 4;
    c->read_high = k->read_state == 4;
    c->low = c->write_high ? k->low : 0;
    c->latched = k->latched != 0;
    c->latch_high = k->latched == HIGH;
    c->latch = k->latch;
    c->status_latched = k->status_latched != 0;
    c->status = k->status;
}

static bool control_came(const KvmPitCounter *k, const KvmPitCounter *g)
{
    return k->mode != g->mode || k->access != g->access || k->bcd != g->bcd;
}

/* A counter that the guest has written to: the control word alone, or a count since. */
static void begin(PitCounter *c, const KvmPitCounter *k, uint8_t mode, uint32_t n, uint64_t start)
{
    bool untouched = k->mode == NO_MODE;
    *c = (PitCounter){.mode = untouched ? 3 : mode,
                      .access = untouched ? BOTH : k->access,
                      .bcd = k->bcd != 0,
                      .untouched = untouched,
                      .n = untouched ? 0 : n,
                      .start = start};
}

static void return_other(PitCounter *c, const KvmPitCounter *k, const KvmPitCounter *g,
                         const PitLook *look, uint64_t now)
{
    uint64_t loaded = tick_of(k->loaded_ns, look);
    bool fell = g->gate;
    if (k->loaded_ns != g->loaded_ns) {
        begin(c, k, k->mode, k->count, loaded);
        c->triggered = by_trigger(k->mode) && k->gate;
        fell = true;
    } else if (control_came(k, g)) {
        begin(c, k, k->mode, 0, 0);
    } else if (k->gate && !g->gate && c->n) { /* KVM has counted all the time */
        c->start = loaded + k->count - c->n;
    }
    /* The gate does not hold KVM's counters; it does, as far as it can be told, from now on. */
    if (k->gate || by_trigger(c->mode))
        c->held = 0;
    else if (fell)
        c->held = MAX_OF(now, c->start);
    take_form(c, k);
}

/* Has a period of n ended at `end`, as far as the look can tell? */
static bool in_phase(uint64_t end, uint32_t n, const PitLoan *loan, const PitLook *look)
{
    uint64_t early = PIT_PHASE_TICKS + loan->slack, late = early + look->took;
    return (end - loan->at + early + n * (loan->at / n + 1)) % n <= early + late;
}

bool pit_return(PitState *s, const PitLoan *loan, const KvmPit *k, const PitLook *look,
                uint64_t now, uint64_t *made)
{
    PitCounter *c = &s->c[0];
    const KvmPitCounter *k0 = &k->c[0], *g0 = &loan->given.c[0];
    uint64_t last, next;
    *made = 0;
    for (unsigned i = 1; i < ARRAY_LEN(s->c); i++)
        return_other(&s->c[i], &k->c[i], &loan->given.c[i], look, now);
    s->port_b = (uint8_t)((s->port_b & ~3) | k->speaker << 1 | (k->c[2].gate ? 1 : 0));

    bool same = k0->count == g0->count, control = control_came(k0, g0);
    pit_ends(k, look, &last, &next);
    if (same && loan->ticks == PIT_ONCE) { /* the rest of a count: the guest has written another */
        *made = next <= now;
    } else if (same && loan->ticks == PIT_EACH) {
        uint64_t n = k0->count, edge = next ? next - n : last,
                 periods = edge + n / 2 > loan->at ? (edge + n / 2 - loan->at) / n : 0;
        same = in_phase(edge, (uint32_t)n, loan, look);
        *made = periods + (now > edge ? (now - edge) / n : 0);
    }
    if (!same || control) {
        uint8_t mode = k0->mode;
        begin(c, k0, mode, same ? 0 : k0->count, look->at);
        *made = 0;
        s->due = 0;
        s->out0 = mode != 0;
        if (c->n && periodic(mode)) {
            uint64_t end = next > now ? next : next + (now - next) / c->n * c->n + c->n;
            c->start = end - c->n;
            s->due = end;
        } else if (c->n && !by_trigger(mode)) {
            uint64_t end = last ? last : next;
            c->start = end - c->n;
            s->due = !last && end > now ? end + (mode == 4) : 0;
            s->out0 = s->out0 || end <= now;
        }
    }
    take_form(c, k0);
    return same && !control;
}
