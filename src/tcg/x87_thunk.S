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

/*
 * One or two registers instead of the whole state, for instructions that cannot fault on the stack
 * and with all exceptions masked: x87_fast.c. st0 (rdi), sti or a memory operand (rsi), code, fcw.
 * Returns FSW in bits 15:0 and the flags (LAHF/SETO form) in bits 31:16.
 */
    .macro begin name
    .globl \name
    .hidden \name
    .type \name, @function
\name:
    cmpw $0x37f, (%rcx)         /* the host's own, and most guests' */
    je 1f
    fldcw (%rcx)
1:
    .endm
    .macro run
    call *%rdx
    lahf
    seto %al
    movzwl %ax, %r8d
    shll $16, %r8d
    fnstsw %ax
    movzwl %ax, %eax
    .endm
    .macro done name
    testb $0x3f, %al
    jz 1f
    fnclex
1:  cmpw $0x37f, (%rcx)
    je 1f
    fldcw host_fcw(%rip)
1:  orl %r8d, %eax
    ret
    .size \name, . - \name
    .endm

/* ST(0) and ST(1); both are written back. */
    begin x87_two
    fldt (%rsi)
    fldt (%rdi)
    run
    fstpt (%rdi)
    fstpt (%rsi)
    done x87_two
/* ST(0), and the operand in memory. */
    begin x87_one
    fldt (%rdi)
    run
    fstpt (%rdi)
    done x87_one
/* As x87_one, of an instruction that pops. */
    begin x87_popping
    fldt (%rdi)
    run
    done x87_popping
/* An instruction that pushes: its result is stored. */
    begin x87_pushing
    run
    fstpt (%rdi)
    done x87_pushing

    .balign 2
host_fcw:
    .short 0x37f

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
