/*
 * VM-entry checks that say VMENTRY_LOST: KVM takes the state by its ioctls and runs another. What
 * it makes of each, and that the switch refuses it by name.
 */
#include <check.h>
#include <stdio.h>

#include "fixture.h"
#include "switch/switch.h"
#include "vmstate/checks.h"
#include "vmstate/rules.h"
#include "run_suite.h"

static Fixture *f;

enum { IRQ = 0x21, IRQ_HANDLER = 0x2000, NMI_HANDLER = 0x2010, EXC_HANDLER = 0x2020 };
enum { IRQS = 0x500, NMIS, EXCEPTIONS };

static void put(unsigned at, const void *bytes, size_t n)
{
    memcpy(fix_ram(f) + at, bytes, n);
}

/* Real mode, interrupts on; each handler counts in a byte of its own. */
static void load(void)
{
    static const uint8_t code[] = {0x90, 0x90, 0xe6, 0xf4};      /* nop; nop; out f4, al */
    static const uint8_t irq[] = {0xfe, 0x06, 0x00, 0x05, 0xcf}; /* inc byte [500]; iret */
    static const uint8_t nmi[] = {0xfe, 0x06, 0x01, 0x05, 0xcf};
    static const uint8_t exc[] = {0xfe, 0x06, 0x02, 0x05, 0xcf};
    static const uint16_t exc_vector[] = {EXC_HANDLER, 0};
    static const uint16_t irq_vector[] = {IRQ_HANDLER, 0}, nmi_vector[] = {NMI_HANDLER, 0};

    fixture_load(f, FIX_REAL, code, sizeof(code), &engine_interp);
    put(IRQ_HANDLER, irq, sizeof(irq));
    put(NMI_HANDLER, nmi, sizeof(nmi));
    put(EXC_HANDLER, exc, sizeof(exc));
    put(4 * VEC_BR, exc_vector, sizeof(exc_vector));
    put(4 * IRQ, irq_vector, sizeof(irq_vector));
    put(4 * VEC_NMI, nmi_vector, sizeof(nmi_vector));
    f->v->st.rflags |= FL_IF;
    f->v->where = ST_CANONICAL;
}

/* As it is, past rules and checks; what KVM then has is in v->st. */
static void into_kvm(void)
{
    GError *err = NULL;
    ck_assert_msg(engine_kvm.import_state(f->v, GROUPS_ALL, &err), "%s", err ? err->message : "");
    ck_assert_msg(engine_kvm.export_state(f->v, GROUPS_ALL, &err), "%s", err ? err->message : "");
}

static void run_kvm(void)
{
    const RunLimit none = {0};
    Exit e = engine_kvm.run(f->v, &none);
    ck_assert_msg(f->ended, "exit %d: %s", e.kind, e.msg);
    ck_assert(engine_kvm.drain(f->v, NULL));
}

static void refused(const char *check)
{
    GError *err = NULL;
    ck_assert(!vcpu_switch(f->v, &engine_kvm, SWITCH_TEST, &err));
    ck_assert_msg(strstr(err->message, check) != NULL, "'%s' does not name '%s'", err->message,
                  check);
    ck_assert_ptr_eq(f->v->engine, &engine_interp);
    g_error_free(err);
}

/* Two events that were being delivered: one arrives, and nothing tells of the other. */
START_TEST(one_event_of_two)
{
    Events *e = &f->v->st.ev;
    load();
    e->interrupt.injected = e->nmi.injected = true;
    e->interrupt.nr = IRQ;
    refused("event-single");

    into_kvm();
    ck_assert(e->interrupt.injected && e->nmi.injected);
    run_kvm();
    ck_assert(engine_kvm.export_state(f->v, GROUPS_ALL, NULL));
    printf("of an interrupt and an NMI KVM delivered %u and %u, and holds %u and %u\n",
           fix_ram(f)[IRQS], fix_ram(f)[NMIS], e->interrupt.injected,
           e->nmi.injected + e->nmi.pending);
    ck_assert_uint_eq(fix_ram(f)[IRQS] + fix_ram(f)[NMIS], 1);
    if (kvm_has_hardware()) /* one without may have kept it, and delivers it late */
        ck_assert(!e->interrupt.injected && !e->nmi.injected && !e->nmi.pending);
}
END_TEST

/* The same with an exception: it arrives, the interrupt does not. */
START_TEST(one_event_beside_an_exception)
{
    Events *e = &f->v->st.ev;
    load();
    e->interrupt.injected = e->exception.pending = true;
    e->interrupt.nr = IRQ;
    e->exception.nr = VEC_BR;
    refused("event-single");

    into_kvm();
    ck_assert(e->interrupt.injected && e->exception.pending);
    run_kvm();
    ck_assert(engine_kvm.export_state(f->v, GROUPS_ALL, NULL));
    printf("of an interrupt and an exception KVM delivered %u and %u, and holds %u and %u\n",
           fix_ram(f)[IRQS], fix_ram(f)[EXCEPTIONS], e->interrupt.injected,
           e->exception.injected + e->exception.pending);
    ck_assert_uint_eq(fix_ram(f)[EXCEPTIONS], 1);
    if (kvm_has_hardware())
        ck_assert(!fix_ram(f)[IRQS] && !e->interrupt.injected);
}
END_TEST

/* A CPL that is not SS.DPL: KVM has the latter. A rule would have mended that. */
START_TEST(privilege)
{
    load();
    f->v->st.cpl = 3;
    ck_assert(rule_set_enabled("cpl-dpl", false));
    refused("cpl");
    ck_assert(rule_set_enabled("cpl-dpl", true));
    into_kvm();
    ck_assert_uint_eq(f->v->st.cpl, 0);
}
END_TEST

/* A run state that KVM has no word for: it runs. */
START_TEST(run_state)
{
    load();
    f->v->st.run_state = (enum RunState)99;
    refused("activity");
    into_kvm();
    run_kvm();
}
END_TEST

/* The others: none. */
START_TEST(no_more_than_these)
{
    static const char *const these[] = {"cpl", "event-single", "activity"};
    CheckInfo c;
    unsigned n = 0;
    load();
    f->v->st.cpl = 3;
    f->v->st.ev.interrupt.injected = f->v->st.ev.nmi.injected = true;
    f->v->st.run_state = (enum RunState)99;
    for (unsigned i = 0; vmentry_check_info(i, &c); i++) {
        if (vmentry_ask(i, &f->v->st, NULL, NULL, 0) == VMENTRY_LOST) {
            ck_assert_uint_lt(n, ARRAY_LEN(these));
            ck_assert_str_eq(c.name, these[n++]);
        }
    }
    ck_assert_uint_eq(n, ARRAY_LEN(these));
}
END_TEST

int main(void)
{
    f = fixture_new(true);
    if (!f->have[ENGINE_KVM]) {
        printf("skipped: no usable /dev/kvm\n");
        fixture_free(f);
        return 77;
    }
    Suite *s = suite_create("lost");
    TCase *c = tcase_create("lost");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, one_event_of_two);
    tcase_add_test(c, one_event_beside_an_exception);
    tcase_add_test(c, privilege);
    tcase_add_test(c, run_state);
    tcase_add_test(c, no_more_than_these);
    suite_add_tcase(s, c);
    int status = run_suite_unforked(s); /* a KVM vCPU belongs to its process */
    fixture_free(f);
    return status;
}
