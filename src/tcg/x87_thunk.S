/* See x87.h. */
    .text

/* void x87_enter(image, mem, code, cc). The instructions below take their operand at [rsi]. */
    .globl x87_enter
    .hidden x87_enter
    .type x87_enter, @function
x87_enter:
    fxrstor64 (%rdi)
    movzwl (%rcx), %eax
    addb $0x7f, %al             /* OF */
    sahf
    call *%rdx
    lahf
    seto %al
    movw %ax, (%rcx)
    fxsave64 (%rdi)
    fninit
    ret
    .size x87_enter, . - x87_enter

    .globl x87_reg_code, x87_mem_code
    .hidden x87_reg_code, x87_mem_code
    .balign 16
x87_reg_code:
    .set opcode, 0xd8
    .rept 8
    .set modrm, 0xc0
    .rept 64
    .byte opcode, modrm, 0xc3, 0x90
    .set modrm, modrm + 1
    .endr
    .set opcode, opcode + 1
    .endr

x87_mem_code:
    .set opcode, 0xd8
    .rept 8
    .set modrm, 0x06            /* [rsi] */
    .rept 8
    .byte opcode, modrm, 0xc3, 0x90
    .set modrm, modrm + 8
    .endr
    .set opcode, opcode + 1
    .endr

    .section .note.GNU-stack, "", @progbits
