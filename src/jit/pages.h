/* Where translated code finds the guest's pages: the first-level TLB, and what is made from it.
 * Part of jit.h, which says what each is for. */
#ifndef TANDEM_JIT_PAGES_H
#define TANDEM_JIT_PAGES_H

/* ---- first-level TLB (tlb.c): kept a subset of what the current bank allows ---- */
/* Of memory that is all zero. */
void jit_tlb_init(Jit *);
/* all: global pages too */
void jit_tlb_flush(Jit *, bool all);
void jit_tlb_flush_page(Jit *, gva_t lin);
void jit_tlb_drop_writes(Jit *, const uint8_t *host_page);
void jit_tlb_fill(Jit *, unsigned mode, gva_t lin);
/* Entries of this page whose `add` is `from` have `to` from now on; 0: they go. */
void jit_tlb_move(Jit *, gva_t page, uint64_t from, uint64_t to);
/* Entries of this page lead to where the mirror shows it, those that may write only if that may. */
void jit_tlb_show(Jit *, gva_t page, uint64_t to, bool write);
/* All goes, and memory back to the host. */
void jit_tlb_give_back(Jit *);

/* ---- slots (slot.c): a subset of the same ---- */
void jit_slots_init(Jit *);
/* A new one for an access, or -1: not here. */
int jit_slot_new(Trans *, unsigned size, bool write);
/* Does code of this kind have slots? */
bool jit_has_slots(const Trans *);
/* The slot at JitHot.slot_at gets the pages around lin if the first-level TLB has them; b's
 * instruction k loses its slot if that happens too often. b may be NULL, for a stream: it keeps it;
 * k then is whether it may lead into a window. */
bool jit_slot_fill(Jit *, Block *b, unsigned k, unsigned mode, gva_t lin);
void jit_slots_flush(Jit *);
/* All go, with the code that has them. */
void jit_slots_forget(Jit *);
void jit_slots_flush_page(Jit *, unsigned mode, gva_t lin);
/* What JitSlot.listed is in the last byte of a slot. */
uint8_t jit_slot_listed_bit(void);

/* ---- windows (window.c) ---- */
/* What the first-level TLB has as `add` of a page which is so far from the guest's RAM: that, or
 * its window's; and the reverse. */
uint64_t jit_window_add(const Jit *, gva_t page, uint64_t add);
uint64_t jit_window_direct(const Jit *, gva_t page, uint64_t add);
/* Shows a page that the first-level TLB has at `add`, which is not its window's: it leads there
 * then, and the page's slots are empty. False: it cannot be shown. */
bool jit_window_show(Jit *, gva_t page, uint64_t add);
/* Is there a window for this place? */
bool jit_window_at(const Jit *, gva_t page);
/* No slot leads into windows any more: if there are many pages in them, all go. */
void jit_windows_trim(Jit *);
void jit_windows_free(Jit *);

/* ---- the mirror (mirror.c) ---- */
/* The area of this address. */
enum MirrorArea jit_mirror_area(gva_t lin);
/* The guest's address of a place in the host's areas; elsewhere some that is in none. */
gva_t jit_mirror_lin(const void *host);
/* May code that runs in the present address space be made for it? It is this one's then. */
bool jit_mirror_claim(Jit *);
/* In use, if it is of the present address space. */
bool jit_mirror_on(Jit *);
/* Out of use: something of the TLB has been flushed. */
void jit_mirror_off(Jit *);
/* Is it? */
bool jit_mirror_out(const Jit *);
/* Shows the page of lin, which user code has just accessed, and those beside it; false: not that
 * one, or it was shown already. */
bool jit_mirror_show(Jit *, gva_t lin);
/* What it shows of these bytes goes. */
void jit_mirror_drop(Jit *, gva_t lin, gva_t bytes);
/* What the first-level TLB has as `add` of a page which is so far from the guest's RAM: that, or
 * the mirror's; and the reverse. */
uint64_t jit_mirror_add(const Jit *, gva_t page, uint64_t add, bool write);
uint64_t jit_mirror_direct(const Jit *, gva_t page, uint64_t add);
/* This page of the guest's memory is not to be written through it. */
void jit_mirror_drop_writes(Jit *, const uint8_t *host_page);
/* Can some of RAM be mapped once more? */
bool jit_mirror_file(const MemMap *);
void jit_mirror_give_back(Jit *);
void jit_mirror_free(Jit *);

/* Where the host's minus the guest's address in an area is, plus 12 (mem.c). */
HostMem jit_mirror_adds(const Jit *, enum MirrorArea);
/* rcx = what r, a host register, has above the bits of an address in the area; flags stay. While
 * the mirror is not in use that is such that no check passes, but (of the upper area, by SHRX) for
 * the address 1, whose `add` leads nowhere. */
void jit_area_bits(Trans *, unsigned r, enum MirrorArea);
/* rax, or rcx: where the mirror has i's base and displacement, for accesses up to 2^38 bytes from
 * there, which follow; H_NONE: that is no address. */
unsigned jit_mirror_base(Trans *, const Insn *i, enum MirrorArea);
/* mem.c: a place that has been checked, of the mirror's lower area; rax may change. */
struct Place;
HostMem jit_as_it_stands(Trans *, const struct Place *);

/* ---- checks that change the flags (flags.c) ---- */
/* May code before instruction x->k change them? Then only its cold code, and that of some that
 * follow, needs jit_flags_again(). */
bool jit_flags_free(Trans *);
/* They are what they were before instruction k, if that is not so. Changes rcx. */
void jit_flags_again(Trans *, unsigned k, bool second);
/* The same of where the second body of a loop goes back to its top: Trans.round_setter is set. */
bool jit_flags_free_round(Trans *);
/* Are all flags set anew behind instruction x->k, in its block, before anything can look at them or
 * leave translated code? */
bool jit_flags_dead(const Trans *);

/* bits.c: bits[r] is n if -2^n <= register r < 2^n for sure; 64: anything. Behind i. */
void jit_bits_follow(uint8_t bits[GPR_N], const Insn *i);

/* ---- the kernel's mirror (mirror_kernel.c): the same of global pages of its own ---- */
/* The area of this address, if it has one; and what the upper bits of such are. */
enum MirrorArea jit_kernel_area(const Jit *, gva_t lin);
int32_t jit_kernel_upper(const Jit *, enum MirrorArea);
/* 0: not of these areas */
gva_t jit_kernel_lin(const Jit *, const void *host);
/* Instruction k of b, which has no code yet, is about to access this. */
void jit_kernel_note(Jit *, Block *b, unsigned k, gva_t lin);
/* Where it has been seen. */
enum MirrorArea jit_kernel_seen(const Block *b, unsigned k);
/* Where one may be that nobody has seen, of the stack or other. */
enum MirrorArea jit_kernel_guess(const Jit *, bool stack);
struct Cold;
/* mem.c: cold code of an access of the kernel's that is not in its mirror: by the first-level
 * TLB. What follows has a miss there. */
void jit_elsewhere(Trans *, struct Cold *);
bool jit_kernel_claim(Jit *);
bool jit_kernel_on(Jit *);
void jit_kernel_off(Jit *);
bool jit_kernel_out(const Jit *);
bool jit_kernel_show(Jit *, gva_t lin);
/* What it shows of the page, large or not, that lin is in goes. */
void jit_kernel_drop(Jit *, gva_t lin);
uint64_t jit_kernel_add(const Jit *, gva_t page, uint64_t add, bool write);
/* As jit_mirror_drop_writes(); the first-level TLB has no such entry any more that leads here. */
void jit_kernel_drop_writes(Jit *, const uint8_t *host_page);
void jit_kernel_give_back(Jit *);
void jit_kernel_free(Jit *);

/* ---- jump cache and jumps to other pages (jump.c) ---- */
/* Of memory that is all zero. */
void jit_jumps_init(Jit *);
void jit_jumps_free(Jit *);
/* Out of use until their pages are found again; all: global pages too. */
void jit_jumps_flush(Jit *, bool all);
/* What leads into this page, or (of a large page) into this gigabyte. */
void jit_jumps_flush_page(Jit *, gva_t lin);
/* What leads to b's code by its RIP, which has no code any more. */
void jit_jumps_to_dead(Jit *, const Block *b);
/* Trust in code has gone: nothing comes back. */
void jit_jumps_distrust(Jit *);
/* Code has gone: the same, and all records. */
void jit_jumps_forget(Jit *);
/* The same, and memory goes back to the host. */
void jit_jumps_give_back(Jit *);
/* b has been found at rip, in this map_gen. */
void jit_jump_fill(Jit *, unsigned mode, uint64_t rip, const Block *b);
/* Can jumps to b, at rip, be kept until rip's page is out of use? Not if it ends in a page that is
 * sooner. */
bool jit_jump_may(const Jit *, uint64_t rip, const Block *b);
/* True: code in rip's page that was known before is in the cache again. */
bool jit_jumps_revive(Jit *, unsigned mode, uint64_t rip);
/* The same; the block at rip, if its code is there then, or NULL. */
Block *jit_block_revived(Jit *, unsigned mode, uint64_t rip);
/* l is linked to b, which has been found at its target: until that page is out of use. */
void jit_far_add(Jit *, JitLink *l, const Block *b);
/* Number of the jump cache of a decode mode; -1: no code is made in it. Code is made of 64 bits,
 * and of 32 where segments are flat; at CPL 3, below it, and there with EFLAGS.AC. */
static inline int jit_jump_slot(unsigned mode)
{
    const unsigned flat32 = DM_FLAT | DM_CS32 | DM_SS32 | DM_PROT;
    int slot = mode & DM_CPL3 ? 2 : mode & DM_AC ? 1 : 0;
    if (mode & DM_CODE64)
        return slot;
    return (mode & flat32) == flat32 ? 3 + slot : -1;
}
/* Code at rip in decode mode `mode`, which takes RIP in rax, if the jump cache has it; or NULL. */
static inline const uint8_t *jit_code_at(const Jit *j, unsigned mode, uint64_t rip)
{
    unsigned x = rip & (JJUMP_SIZE - 1);
    int slot = jit_jump_slot(mode);
    return slot >= 0 && j->hot->jump[slot].neg[x] == 0 - rip ? j->hot->jump[slot].code[x] : NULL;
}

#endif
