/*
 * A guest of 64 KiB at the reset vector for two vCPUs in long mode, at privilege 0, that do to each other what vCPUs
 * do: locked counters, interrupts, stores to each other's code, accessed and dirty bits, remapped pages. Each part
 * is named at port 0xe9 when it has come out right, and the guest ends through isa-debug-exit at 0xf4: 0 is well.
 * RBX is 0 for the boot processor and 1 for the other; both run the same text.
 *
 * Handlers return with POPF and RET, not IRET, so that they are not rescued on a KVM that lacks it: the test wants
 * each vCPU where it was put.
 */
#ifndef ROUNDS
#define ROUNDS 24
#endif
#ifdef PRIVILEGE3 /* both go there, and leave out what they may not do: on a KVM that emulates privilege 0, the other way */
#define RIGHTS 7  /* present, writable, user */
#else
#define RIGHTS 3
#endif
#define BASE    0xf0000
#define AT(l)   ((l) - image + BASE)
#define OFF(l)  ((l) - image)
#define PML4    0x10000 /* and what is below it: one GiB in 2 MiB pages, and one page table */
#define PT      0x13000 /* of 4 KiB pages from WINDOW on */
#define WINDOW  0x40000000
#define PAGE_A  0x20000
#define PAGE_B  0x21000
#define PAGE_C  0x22000
#define PAGE_D  0x23000
#define PAGE_E  0x24000
#define PT2     0x16000 /* in place of PT, now and then */
#define PD3     0x17000 /* the third GiB's directory, and two tables for its first entry, in turn */
#define PT3A    0x18000
#define PT3B    0x19000
#define BESIDE  0x80000000
#define GDT     0xa000
#define TSS     0xa100 /* + k * 0x80 */
#define CODE    0x30000 /* a function of vCPU k is at CODE + k * 0x1000; the other vCPU writes it */
#define VARS    0x8800
#define COUNT   (VARS + 0x00) /* locked */
#define XCHGED  (VARS + 0x40)
#define READY   (VARS + 0x80)
#define SEQ     (VARS + 0xc0)  /* + k * 8: written by the other vCPU for vCPU k */
#define ACK     (VARS + 0x100) /* + k * 8: by vCPU k */
#define IPIS    (VARS + 0x140) /* + k * 8: taken by vCPU k */
#define SPIN    (VARS + 0x180)
#define GATHER  (VARS + 0x1c0)
#define ENTRY   (VARS + 0x200)
#define IDT     0x9000
#define TRAMP   0x8000
#define VECTOR  0x40
#define APIC    0xfee00000

.macro SAY text
    testl %ebx, %ebx
    jnz 5f
    movl $AT(4f), %esi
1:  movb (%esi), %al
    incl %esi
    outb %al, $0xe9
    cmpb $10, %al
    jne 1b
    jmp 5f
4:  .ascii "\text\n"
5:
.endm

/* The instruction in EDX, and all translations of this vCPU go: privilege 3 has #UD's handler do both. */
#define XOR_PD3 1 /* in the entry for BESIDE */
#define FIST_PT 2 /* ENTRY goes to PT by an instruction that a KVM without hardware leaves to others */
.macro CHANGE_AND_FLUSH what
    movl $\what, %edx
#ifdef PRIVILEGE3
    ud2
#else
    call change
    movq %cr3, %rax
    movq %rax, %cr3
#endif
.endm
.macro FLUSH
    CHANGE_AND_FLUSH 0
.endm

/* Both wait here for each other. R15 counts the gatherings. */
.macro TOGETHER
    addq $2, %r15
    lock incq GATHER
1:  pause
    cmpq %r15, GATHER
    jb 1b
.endm

    .text
    .code16
image:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x7000, %esp
    /* Variables and page tables. */
    movw $TRAMP, %di
    movw $0x4000, %cx
    rep stosb
    /* The trampoline of the other vCPU: here, and on from AT(start16) in this image. */
    movb $0xea, TRAMP
    movw $OFF(start16), TRAMP + 1
    movw $0xf000, TRAMP + 3
    xorl %ebx, %ebx
    jmp to32
start16:
    cli
    movl $1, %ebx
to32:
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl %cs:OFF(gdt_pointer)
    movl %cr0, %eax
    orb $0x01, %al
    andl $0x9fffffff, %eax /* caches on */
    movl %eax, %cr0
    ljmpl $0x08, $AT(enter32)

    .code32
enter32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    testl %ebx, %ebx
    jnz to64
    movl $PML4, %edi
    movl $0x1800, %ecx
    xorl %eax, %eax
    rep stosl
    movl $PML4 + 0x1000 + RIGHTS, PML4
    movl $PML4 + 0x2000 + RIGHTS, PML4 + 0x1000
    movl $PT + 0x1000 + RIGHTS, PML4 + 0x1008 /* the second GiB: one page directory more */
    movl $PT + RIGHTS, PT + 0x1000
    movl $0x80 + RIGHTS, PML4 + 0x2000 /* 2 MiB of RAM onto itself */
    movl $PD3 + RIGHTS, PML4 + 0x1010
    movl $PT3A + RIGHTS, PD3
    movl $PAGE_D + RIGHTS, PT3A
    movl $PAGE_E + RIGHTS, PT3B
    movb $0xc3, PD3 + 0x800 /* a function: ret */
    movl $PT + 0x2000 + RIGHTS, PML4 + 0x1018 /* the fourth: the APIC */
    movl $0xfee00093, PT + 0x2000 + 0x1f7 * 8
    movl $PAGE_A + RIGHTS, PT
to64:
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80010000, %eax /* PG, WP */
    movl %eax, %cr0
    ljmp $0x18, $AT(enter64)

    .code64
taken:
    pushq %rax
    movl $APIC + 0xb0, %eax
    movl $0, (%rax)
    lock incq IPIS(, %rbx, 8)
    popq %rax
    /* Frame: RIP, CS, RFLAGS, RSP, SS; no red zone is used. */
    pushq %rax
    pushq %rcx
    movq 40(%rsp), %rcx     /* RSP of before */
    movq 16(%rsp), %rax     /* RIP */
    movq %rax, -8(%rcx)
    movq 32(%rsp), %rax     /* RFLAGS */
    movq %rax, -16(%rcx)
    movq 8(%rsp), %rax
    movq %rax, -24(%rcx)
    movq (%rsp), %rax
    movq %rax, -32(%rcx)
    leaq -32(%rcx), %rsp
    popq %rcx
    popq %rax
    popfq
    ret

change:
    cmpl $XOR_PD3, %edx
    jb 2f
    ja 1f
    xorl $PT3A ^ PT3B, PD3
    ret
1:  fildll ENTRY
    fistpll PT
2:  ret

flushes:
    pushq %rax
    call change
    movq %cr3, %rax
    movq %rax, %cr3
    popq %rax
    addq $2, (%rsp) /* behind UD2 */
    iretq

enter64:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x7000, %esp
    movl %ebx, %eax
    shll $11, %eax
    subl %eax, %esp /* a stack each */
    xorl %r15d, %r15d
    testl %ebx, %ebx
    jnz 1f
    movl $AT(taken) & 0xffff | 0x180000, IDT + VECTOR * 16
    movl $AT(taken) & 0xffff0000 | 0x8e00, IDT + VECTOR * 16 + 4
1:  lidt AT(idt_pointer)
    movl $APIC + 0xf0, %eax
    movl $0x1ff, (%rax) /* enabled */
    testl %ebx, %ebx
    jnz 2f
    movl $APIC + 0x310, %edx
    movl $0x01000000, (%rdx)
    movl $APIC + 0x300, %edx
    movl $0x4500, (%rdx) /* INIT */
    movl $APIC + 0x310, %ecx
    movl $0x01000000, (%rcx)
    movl $0x4608, (%rdx) /* SIPI: TRAMP */
2:
#ifdef PRIVILEGE3
    /* A TSS with a stack for the handler, and its descriptor in a GDT that is in RAM. */
    movl $AT(flushes) & 0xffff | 0x180000, IDT + 6 * 16
    movl $AT(flushes) & 0xffff0000 | 0x8e00, IDT + 6 * 16 + 4
    movl $AT(gdt), %esi
    movl $GDT, %edi
    movl $6, %ecx
    rep movsq
    lgdt AT(gdt_in_ram)
    movl %ebx, %eax
    shll $7, %eax
    addl $TSS, %eax
    movl %ebx, %ecx
    shll $11, %ecx
    negl %ecx
    addl $0x6000, %ecx
    movq %rcx, 4(%rax)
    shlq $16, %rax
    movabsq $0x0000890000000067, %rcx
    orq %rcx, %rax
    movl %ebx, %ecx
    shll $4, %ecx
    addl $0x30, %ecx
    movq %rax, GDT(%rcx)
    movq $0, GDT + 8(%rcx)
    ltr %cx
    pushq $0x23
    leaq 8(%rsp), %rax
    pushq %rax
    pushq $0x3002 /* IOPL 3 */
    pushq $0x2b
    leaq 1f(%rip), %rax
    pushq %rax
    iretq
1:
#endif
    TOGETHER
    SAY "both"

    /* Locked operations: a sum, and a lock made of XCHG around a plain one. */
    movl $ROUNDS * 20, %ebp
1:  lock incq COUNT
    movl $1, %eax
2:  xchgl %eax, SPIN
    testl %eax, %eax
    jz 3f
    pause
    movl $1, %eax
    jmp 2b
3:  incq XCHGED
    movl $0, SPIN
    decl %ebp
    jnz 1b
    TOGETHER
    cmpq $ROUNDS * 40, COUNT
    jne failed
    cmpq $ROUNDS * 40, XCHGED
    jne failed
    SAY "locked"

#ifndef PRIVILEGE3
    /* Interrupts, one after the other: each sends when it has taken the last. */
    sti
    movl $ROUNDS, %ebp
    xorl %r14d, %r14d
    testl %ebx, %ebx
    jnz 2f
1:  call send
2:  incq %r14
3:  pause
    cmpq %r14, IPIS(, %rbx, 8)
    jb 3b
    testl %ebx, %ebx
    jz 4f
    call send
4:  decl %ebp
    jz 5f
    testl %ebx, %ebx
    jz 1b
    jmp 2b
5:  cli
    TOGETHER
    cmpq $ROUNDS, IPIS
    jne failed
    cmpq $ROUNDS, IPIS + 8
    jne failed
    SAY "interrupts"
#endif

    /* Code: each vCPU writes a number into the other's function, says so, and waits until that was returned. */
    movl %ebx, %r12d
    xorl $1, %r12d /* the other */
    movl %r12d, %r13d
    shll $12, %r13d
    addl $CODE, %r13d /* its function: mov eax, N; ret */
    movb $0xb8, (%r13)
    movl $0, 1(%r13)
    movb $0xc3, 5(%r13)
    movl %ebx, %r14d
    shll $12, %r14d
    addl $CODE, %r14d
    TOGETHER
    movl $1, %ebp
1:  movl %ebp, 1(%r13)
    movq %rbp, SEQ(, %r12, 8)
    /* What was written for us: seen, serialised, executed. */
2:  pause
    cmpq %rbp, SEQ(, %rbx, 8)
    jb 2b
    pushq %rbx
    xorl %eax, %eax
    cpuid
    popq %rbx
    call *%r14
    cmpl %ebp, %eax
    jne failed
    movq %rbp, ACK(, %rbx, 8)
3:  pause
    cmpq %rbp, ACK(, %r12, 8)
    jb 3b
    incl %ebp
    cmpl $ROUNDS, %ebp
    jbe 1b
    TOGETHER
    SAY "code"

#ifndef PRIVILEGE3
    /* Dirty and accessed bits: one clears them, the other touches, in turn. */
    movl $ROUNDS, %ebp
    movq $0, SEQ
    movq $0, SEQ + 8
    TOGETHER
    movl $WINDOW, %r14d
    movl $1, %r13d
    testl %ebx, %ebx
    jnz 3f
1:  lock btrq $6, PT
    lock btrq $5, PT
    invlpg (%r14)
    movq %r13, SEQ + 8
2:  pause
    cmpq %r13, SEQ
    jb 2b
    movl PT, %eax
    andl $0x60, %eax
    cmpl $0x60, %eax
    jne failed
    incl %r13d
    decl %ebp
    jnz 1b
    jmp 4f
3:  pause
    cmpq %r13, SEQ + 8
    jb 3b
    invlpg (%r14)
    incl (%r14)
    movq %r13, SEQ
    incl %r13d
    decl %ebp
    jnz 3b
4:  TOGETHER
    cmpl $ROUNDS, PAGE_A
    jne failed
    TOGETHER /* before that is written anew */
    SAY "dirty"

    /* A page is put elsewhere; the other drops its translation and says so; then nothing reaches the old page. */
    movl $ROUNDS, %ebp
    movq $0, SEQ
    movq $0, SEQ + 8
    movq $0, PAGE_A
    movq $0, PAGE_B
    TOGETHER
    movl $1, %r13d
    testl %ebx, %ebx
    jnz 3f
1:  xorl $PAGE_A ^ PAGE_B, PT
    invlpg (%r14)
    movq %r13, SEQ + 8
2:  pause
    cmpq %r13, SEQ
    jb 2b
    movl PT, %eax
    andl $0xff000, %eax
    cmpl %r13d, (%rax)
    jne failed
    incl %r13d
    decl %ebp
    jnz 1b
    jmp 4f
3:  pause
    cmpq %r13, SEQ + 8
    jb 3b
    invlpg (%r14)
    movl %r13d, (%r14)
    movq %r13, SEQ
    incl %r13d
    decl %ebp
    jnz 3b
4:  TOGETHER
    SAY "remapped"
#endif

    /* The same, and now and then by a table further up, with a flush of everything: nobody but the processor, or whatever
     * is in its place, is told which translations that concerns. */
    movl $ROUNDS, %ebp
    movl $WINDOW, %r14d
    movl $PAGE_C + RIGHTS, PT2
    movq $0, SEQ
    movq $0, SEQ + 8
    TOGETHER
    movl $1, %r13d
    testl %ebx, %ebx
    jnz 3f
1:  xorl $PAGE_A ^ PAGE_B, PT
    testl $2, %r13d
    jz 6f
    xorl $PT ^ PT2, PT + 0x1000
6:  FLUSH
    movq %r13, SEQ + 8
2:  pause
    cmpq %r13, SEQ
    jb 2b
    movl PT + 0x1000, %eax
    andl $0xff000, %eax
    movl (%rax), %eax
    andl $0xff000, %eax
    cmpl %r13d, (%rax)
    jne failed
    incl %r13d
    decl %ebp
    jnz 1b
    jmp 4f
3:  pause
    cmpq %r13, SEQ + 8
    jb 3b
    FLUSH
    movl %r13d, (%r14)
    movq %r13, SEQ
    incl %r13d
    decl %ebp
    jnz 3b
4:  TOGETHER
    SAY "flushed"

    /* A page directory on a page that has code, too: one calls that, and then the other changes an entry. */
    movl $BESIDE, %r14d
    xorl %r13d, %r13d
6:  incl %r13d
    movl %r13d, %eax
    andl $1, %eax
    cmpl %eax, %ebx
    je 2f
    movl $PD3 + 0x800, %eax
    call *%rax
    TOGETHER
    jmp 3f
2:  TOGETHER
    movl (%r14), %eax
    CHANGE_AND_FLUSH XOR_PD3
    movl %r13d, (%r14)
    movl PD3, %eax
    andl $0xff000, %eax
    movl (%rax), %eax
    andl $0xff000, %eax
    cmpl %r13d, (%rax)
    jne failed
3:  TOGETHER
    cmpl $ROUNDS, %r13d
    jb 6b
    SAY "beside"

    /* A page is put elsewhere by an instruction that a KVM without hardware leaves to others; the other vCPU sees the entry
     * itself, and flushes. */
    movl $WINDOW, %r14d
    testl %ebx, %ebx
    jnz 1f
    fninit
    movl $PAGE_A + RIGHTS, PT
    movl $PT + RIGHTS, PT + 0x1000
    movq $0, SEQ
1:  TOGETHER
    FLUSH
    movl (%r14), %eax
    TOGETHER
    movl $1, %r13d
1:  movl $PAGE_A, %ebp
    testl $1, %r13d
    jz 2f
    movl $PAGE_B, %ebp
2:  testl %ebx, %ebx
    jnz 4f
    leal RIGHTS(%rbp), %eax
    movq %rax, ENTRY
    CHANGE_AND_FLUSH FIST_PT
3:  pause
    cmpq %r13, SEQ
    jb 3b
    cmpl %r13d, (%rbp)
    jne failed
    jmp 5f
4:  movl PT, %eax
    andl $0xff000, %eax
    cmpl %ebp, %eax
    jne 4b
    FLUSH
    movl %r13d, (%r14)
    movq %r13, SEQ
5:  incl %r13d
    cmpl $ROUNDS, %r13d
    jbe 1b
    TOGETHER
    SAY "polled"
    testl %ebx, %ebx
    jnz 1f
    xorl %eax, %eax
    outb %al, $0xf4
1:  pause
    jmp 1b

send: /* to the other */
    movl $APIC + 0x310, %edx
    movl %ebx, %eax
    xorl $1, %eax
    shll $24, %eax
    movl %eax, (%rdx)
    movl $APIC + 0x300, %edx
    movl $0x4000 | VECTOR, (%rdx)
    ret

failed:
    movb $1, %al
    outb %al, $0xf4
1:  pause
    jmp 1b

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08: code, 32 bits, flat */
    .quad 0x00cf93000000ffff /* 10: data, flat */
    .quad 0x00af9b000000ffff /* 18: code, 64 bits */
    .quad 0x00cff3000000ffff /* 20: data, privilege 3 */
    .quad 0x00affb000000ffff /* 28: code, 64 bits, privilege 3 */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long AT(gdt)
gdt_in_ram:
    .word 0x50 - 1
    .quad GDT
idt_pointer:
    .word (VECTOR + 1) * 16 - 1
    .quad IDT

    .org image + 0xfff0
    .code16
    ljmpw $0xf000, $OFF(image)
    .org image + 0x10000
    .section .note.GNU-stack, "", @progbits
