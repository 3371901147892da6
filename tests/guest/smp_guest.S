# Two processors and what can go wrong between them: a plain ELF kernel in long mode. The first wakes
# the second (INIT, SIPI); then both, ROUNDS times: add to a counter with LOCK; take a spin lock for
# an addition without LOCK; hand a ball over; write the instruction that the other calls next. Prints
# "right" or "wrong" on COM1 and ends by isa-debug-exit.
ROUNDS = 2000
TRAMPOLINE = 0x8000
APIC = 0xfee00000

    .code64
    .text
    .globl _start
_start:
    lea stack0(%rip), %rsp
    mov %cr3, %rax                 # for the second
    mov %eax, ap_cr3
    lea trampoline(%rip), %rsi     # to where it starts in real mode
    mov $TRAMPOLINE, %edi
    mov $trampoline_end - trampoline, %ecx
    rep movsb
    mov $APIC, %ebx
    orl $0x100, 0xf0(%rbx)         # spurious vector register: enabled
    movl $0x01000000, 0x310(%rbx)  # to APIC 1
    movl $0xc500, 0x300(%rbx)      # INIT
    mov $10000, %ecx
1:  dec %ecx
    jnz 1b
    movl $0x01000000, 0x310(%rbx)
    movl $0xc600 | TRAMPOLINE >> 12, 0x300(%rbx)
    xor %ebp, %ebp                 # this processor's number
    call play
2:  pause
    cmpl $2, done(%rip)
    jne 2b
    lea wrong(%rip), %rsi
    cmpl $2 * ROUNDS, counter(%rip)
    jne 3f
    cmpl $2 * ROUNDS, locked(%rip)
    jne 3f
    cmpl $2 * ROUNDS, ball(%rip)
    jne 3f
    cmpl $0, bad(%rip)
    jne 3f
    lea right(%rip), %rsi
3:  mov $0x3f8, %dx
    lodsb
    out %al, %dx
    cmp $'\n', %al
    jne 3b
    mov $0xf4, %dx
    xor %eax, %eax
    out %eax, %dx
4:  hlt
    jmp 4b

second:
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    lea stack1(%rip), %rsp
    mov $1, %ebp
    call play
5:  hlt
    jmp 5b

# ebp: 0 or 1.
play:
    mov $ROUNDS, %r12d
1:  lock incl counter(%rip)
2:  mov $1, %eax                   # the spin lock
    xchg %eax, lock(%rip)
    test %eax, %eax
    jz 3f
    pause
    jmp 2b
3:  mov locked(%rip), %eax
    inc %eax
    mov %eax, locked(%rip)
    movl $0, lock(%rip)
4:  mov ball(%rip), %eax           # the ball is ours when its lowest bit is our number
    mov %eax, %ecx
    and $1, %ecx
    cmp %ebp, %ecx
    je 5f
    pause
    jmp 4b
5:  call *routine(%rip)            # what the other wrote: mov imm32, %edx; ret
    cmp ball(%rip), %edx
    je 6f
    lock incl bad(%rip)
6:  mov ball(%rip), %eax
    inc %eax
    mov routine(%rip), %rdx
    mov %eax, 1(%rdx)
    mov %eax, ball(%rip)
    dec %r12d
    jnz 1b
    lock incl done(%rip)
    ret

    .code16
trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl TRAMPOLINE + ap_gdtr - trampoline
    mov $0x20, %eax                # PAE
    mov %eax, %cr4
    mov TRAMPOLINE + ap_cr3 - trampoline, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx          # EFER.LME
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80000011, %eax          # PG, ET, PE
    mov %eax, %cr0
    ljmpl $0x10, $second
    .balign 8
ap_gdt:
    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
ap_gdtr:
    .word 31
    .long TRAMPOLINE + ap_gdt - trampoline
ap_cr3:
    .long 0
trampoline_end:

    .section .rodata
right: .ascii "right\n"
wrong: .ascii "wrong\n"
    .data
    .balign 64
counter: .long 0
locked: .long 0
lock:  .long 0
ball:  .long 0
bad:   .long 0
done:  .long 0
routine: .quad routines
    .balign 4096
    .section .wx, "awx"
    .balign 4096
    .code64
routines:
    mov $0, %edx
    ret
    .bss
    .balign 16
    .skip 4096
stack0:
    .skip 4096
stack1:
