/* The way into a case and out of it: silicon.h. */
        .text
        .globl  silicon_entry, silicon_go, silicon_iret
        .type   silicon_entry, @function
        .type   silicon_go, @function

/* Signal handler: (signal, info, context) on the signal stack. EFLAGS.AC and NT of the case are still on;
 * the kernel has cleared DF and TF. */
silicon_entry:
        pushfq
        andq    $~0x44000, (%rsp)
        popfq
        andq    $-16, %rsp
        call    silicon_handler
        ud2

/* (load, xsave, fsgsbase) */
silicon_go:
        mov     %rdi, %rsp
        mov     %edx, %r8d
        mov     $-1, %eax
        mov     $-1, %edx
        xrstor64 (%rsi)
        /* A null selector may leave the base as it is, so bases come after selectors. */
        movw    176(%rsp), %ds
        movw    178(%rsp), %es
        movw    180(%rsp), %fs
        movw    182(%rsp), %gs
        test    %r8d, %r8d
        jz      1f
        mov     160(%rsp), %rax
        mov     168(%rsp), %rcx
        cmpw    $0, 180(%rsp)
        jne     2f
        wrfsbase %rax
2:      cmpw    $0, 182(%rsp)
        jne     1f
        wrgsbase %rcx
1:
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rbp
        pop     %rbx
        pop     %rdx
        pop     %rcx
        pop     %rax
silicon_iret:
        iretq
        .section .note.GNU-stack, "", @progbits
