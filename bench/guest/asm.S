/* uint64_t chain_down(uint64_t times, uint64_t value): that often, a call eight levels deep. */
    .text
    .globl chain_down
    .type chain_down, @function
chain_down:
    movq %rsi, %rax
1:  call level1
    decq %rdi
    jnz 1b
    ret

.macro LEVEL n, next
level\n:
    addq $\n, %rax
    call level\next
    ret
.endm
    LEVEL 1, 2
    LEVEL 2, 3
    LEVEL 3, 4
    LEVEL 4, 5
    LEVEL 5, 6
    LEVEL 6, 7
    LEVEL 7, 8
level8:
    leaq 1(%rax, %rax, 2), %rax
    ret
    .size chain_down, . - chain_down
    .section .note.GNU-stack, "", @progbits
