/* What guest RAM is made of: huge pages where one mapping is enough, a file where it is not. */
#include <check.h>
#include <sched.h>
#include <sys/mman.h>

#include "kvm/kvm.h"
#include "machine/machine_priv.h"
#include "run_suite.h"

static uint8_t bios[65536];

static Machine *machine(const char *accel, unsigned smp, bool ram_file)
{
    GError *err = NULL;
    MachineConfig cfg = {.accel = accel,
                         .ram_bytes = 5ull << 20,
                         .ram_file = ram_file,
                         .smp = smp,
                         .bios_image = bios,
                         .bios_image_size = sizeof(bios)};
    Machine *m = machine_new(&cfg, &err);
    ck_assert_msg(m != NULL, "%s", err ? err->message : "");
    /* All of it is there, and empty. */
    const RamSlot *last = memmap_find(&m->mem, (5ull << 20) - 1);
    ck_assert_ptr_nonnull(last);
    uint8_t *end = last->host + last->size - 1;
    ck_assert_uint_eq(*end, 0);
    *end = 1;
    return m;
}

/* A page that is to be written comes with those of its piece, one that is only read by itself. */
static void written_in_pieces(const RamSlot *s)
{
    const uint64_t at = 1 << 20, piece = 1 << HUGE_PIECE_SHIFT;
    uint8_t *host = s->host + (at - s->gpa);
    unsigned char there[2 * (1 << HUGE_PIECE_SHIFT) / 4096];
    memmap_use(s, at + piece + 4096, true, false);
    memmap_use(s, at + 5 * 4096, false, true);
    ck_assert_int_eq(mincore(host, sizeof(there) * 4096, there), 0);
    for (unsigned n = 0; n < sizeof(there); n++)
        ck_assert_int_eq(there[n] & 1, n * 4096 < piece);
}

START_TEST(kinds)
{
    const bool kvm = kvm_available(NULL);
    const struct {
        const char *accel;
        unsigned smp;
        bool ram_file, file, huge; /* huge: anonymous where this host has none for files */
        bool probed;               /* huge, too, where it starts in software */
    } rows[] = {{"interp", 1, false, false, true}, {"interp", 2, false, false, true},
                {"jit", 1, false, false, true},    {"jit:interp", 1, false, false, true},
                {"tcg", 1, false, false, true},    {"auto", 1, false, false, false, true},
                {"tcg", 2, false, kvm, !kvm}, /* KVM may come in, and guards pages in its own
                                                 mapping */
                {"interp", 1, true, true, false}};
    for (unsigned k = 0; k < ARRAY_LEN(rows); k++) {
        Machine *m = machine(rows[k].accel, rows[k].smp, rows[k].ram_file);
        const RamSlot *s = memmap_find(&m->mem, 0);
        bool software = m->first != m->engine[ENGINE_KVM];
        ck_assert(rows[k].huge || (rows[k].probed && software) || !s->huge);
        if (rows[k].probed && software && huge_pages_possible())
            ck_assert_ptr_nonnull(s->huge);
        ck_assert_int_eq(s->fd >= 0, rows[k].file || s->huge != NULL);
        if (s->huge) { /* one is asked for when much of it is used */
            s = memmap_find(&m->mem, 2 << 20);
            for (unsigned n = 0; n < 100; n++) { /* one page of a program's; any of the kernel's */
                memmap_use(s, 2 << 20, true, false);
                memmap_use(s, (2 << 20) + n * 4096, false, false);
            }
            ck_assert_uint_eq(huge_page(s->huge, 1 << HUGE_PAGE_SHIFT)->asked, 0);
            for (unsigned n = 0; n < 300; n++)
                memmap_use(s, (2 << 20) + n * 4096, true, false);
            ck_assert_uint_eq(huge_page(s->huge, 1 << HUGE_PAGE_SHIFT)->asked, 1);
            for (unsigned n = 0; n < 100000; n++)
                memmap_use(s, 4 << 20, false, false);
            ck_assert_uint_eq(huge_page(s->huge, 2 << HUGE_PAGE_SHIFT)->asked, 1);
            while (s->huge->answered < 2)
                sched_yield();
            written_in_pieces(memmap_find(&m->mem, 1 << 20));
        }
        s = memmap_find(&m->mem, 0);
        if (!rows[k].file) /* guest's and host's huge pages are the same */
            ck_assert_uint_eq((uintptr_t)s->host & ((2 << 20) - 1), 0);
        machine_free(m);
    }
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("ram");
    tcase_add_test(tc, kinds);
    Suite *suite = suite_create("ram");
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
