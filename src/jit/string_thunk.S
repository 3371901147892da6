/*
 * REP MOVS and STOS upwards on the host's addresses, for processors whose own are slow: called from
 * translated code instead of them (string.c).
 *
 * rdi and rsi: the strings, whose pages may be accessed; rcx: elements, fewer than 2^28; a fill has
 * the guest's RAX. Afterwards rcx elements are left for the instruction itself, mostly none, and rdi
 * is behind what is done; rsi, too, if there are any, else it may be anything. Nothing else changes,
 * flags and vector registers neither: those are used by SSE's instructions, which leave their upper
 * halves alone.
 *
 * Bytes are copied upwards in pieces of up to 32, each of which is read before it is written. What
 * comes of that differs from what the instruction does where a piece would have read what it has
 * itself written: where the destination is 1 to 31 bytes above the source. As a page may have two
 * addresses of the host's, that is so of places in pages, too.
 */
    .text

    .set ALIGNED_FROM, 128      /* bytes from which on an aligned destination is worth its cost */

    .macro begin name, shift
    .globl \name
    .hidden \name
    .balign 16
    .type \name, @function
\name:
    pushq %rax
    pushq %rdx
    .if \shift
    leaq (, %rcx, 1 << \shift), %rcx
    .endif
    .endm

    .macro flags_out            /* rax changes */
    lahf
    seto %al
    pushq %rax
    .endm
    .macro flags_in
    popq %rax
    addb $0x7f, %al             /* OF */
    sahf
    .endm

    .macro back
    flags_in
    popq %rdx
    popq %rax
    ret
    .endm

/* All is done. */
    .macro done
    xorl %ecx, %ecx
    back
    .endm

/* If ecx is `bytes` to one less than twice that, both ends of so many, which may lie over each other. */
    .macro copy_ends bytes, load, a, b, store_a, store_b
    testb $\bytes, %cl
    jz 1f
    \load (%rsi), \a
    \load -\bytes(%rsi, %rcx), \b
    \store_a, (%rdi)
    \store_b, -\bytes(%rdi, %rcx)
    addq %rcx, %rdi
    done
1:
    .endm
    .macro fill_ends bytes, store
    testb $\bytes, %cl
    jz 1f
    \store, (%rdi)
    \store, -\bytes(%rdi, %rcx)
    addq %rcx, %rdi
    done
1:
    .endm

    .macro copy name, shift
    begin \name, \shift
    movl $1 << \shift, %edx
    jmp .Lcopy_bytes
    .size \name, . - \name
    .endm

    copy string_copy2, 1
    copy string_copy4, 2
    copy string_copy8, 3
    begin string_copy1, 0
    movl $1, %edx
.Lcopy_bytes:                   /* edx: of an element */
    flags_out
    movl %edi, %eax
    subl %esi, %eax
    testl $0xfff, %eax
    jz .Lpieces
    addl $31, %eax
    andl $0xfff, %eax
    cmpl $63, %eax
    jb .Lnear
    /* Here a byte may be copied twice: neither time has it been written in between. */
.Lpieces:
    cmpl $32, %ecx
    jae 2f
    testb $16, %cl
    jz 5f
    movups %xmm0, -16(%rsp)
    movups %xmm1, -32(%rsp)
    movups (%rsi), %xmm0
    movups -16(%rsi, %rcx), %xmm1
    movups %xmm0, (%rdi)
    movups %xmm1, -16(%rdi, %rcx)
    addq %rcx, %rdi
    movups -16(%rsp), %xmm0
    movups -32(%rsp), %xmm1
    done
2:  movups %xmm0, -16(%rsp)
    movups %xmm1, -32(%rsp)
    cmpl $ALIGNED_FROM, %ecx
    jb 3f
    movups (%rsi), %xmm0
    movups %xmm0, (%rdi)
    movl %edi, %eax
    orq $-16, %rax
    subq %rax, %rsi             /* minus 16 to 1 */
    addq %rax, %rcx
    subq %rax, %rdi
3:  subq $32, %rcx
    jb 4f
    .balign 16
0:  movups (%rsi), %xmm0
    movups 16(%rsi), %xmm1
    addq $32, %rsi
    movups %xmm0, (%rdi)
    movups %xmm1, 16(%rdi)
    addq $32, %rdi
    subq $32, %rcx
    jae 0b
4:  movups (%rsi, %rcx), %xmm0
    movups 16(%rsi, %rcx), %xmm1
    movups %xmm0, (%rdi, %rcx)
    movups %xmm1, 16(%rdi, %rcx)
    leaq 32(%rdi, %rcx), %rdi
    movups -16(%rsp), %xmm0
    movups -32(%rsp), %xmm1
    done
5:  copy_ends 8, movq, %rax, %rdx, "movq %rax", "movq %rdx"
    copy_ends 4, movl, %eax, %edx, "movl %eax", "movl %edx"
    copy_ends 2, movzwl, %eax, %edx, "movw %ax", "movw %dx"
    jrcxz 9f
    movzbl (%rsi), %eax
    movb %al, (%rdi)
    incq %rdi
9:  done

/*
 * The two are at places in pages that are less than 32 bytes apart; eax: where the destination is, from
 * 31 bytes below the source.
 */
.Lnear:
    subl $31, %eax
    js .Lbelow
    cmpl %eax, %ecx
    jbe .Lpieces
    cmpl $64, %ecx              /* as it is from here on, so both pages are the strings' */
    jb .Lfew
    pushq %r8
    pushq %r9
    leaq -32(%rsp), %rsp
    movups %xmm0, (%rsp)
    movups %xmm1, 16(%rsp)
    leaq (%rsi, %rax), %r8
    subq %rdi, %r8              /* from the destination to its place in the source's page */
    cmpl $2, %edx
    je .Labove2
    jb .Labove1
    cmpl $4, %edx
    je .Labove4

/*
 * Is it that page by another address, or itself? Where two pieces of the source are the same, `above`
 * apart, it does not matter. Then one element is copied after the other, until one of them should
 * have changed what the source has there, and has or has not. That it is still where it was written is
 * for other processors. All of this anew for each page of the destination's.
 */
    .macro above shift, load, store, a, b
    .set SIZE, 1 << \shift
0:  movl %edi, %eax
    andl $0xfff, %eax
    cmpl $0x1000 - 16, %eax
    ja 1f
    movups (%rsi), %xmm0
    movups (%rdi, %r8), %xmm1
    pcmpeqb %xmm0, %xmm1
    pmovmskb %xmm1, %edx
    cmpl $0xffff, %edx
    jne 1f
    movups %xmm0, (%rdi)
    addq $16, %rdi
    addq $16, %rsi
    subl $16, %ecx
    jmp 2f
1:  \load (%rsi), \a
    addq $SIZE, %rsi
    subl $SIZE, %ecx
    cmpl $0x1000 - SIZE, %eax
    ja 3f                       /* it is in the next page, too */
    \load (%rdi, %r8), \b
    cmpq %rax, %rdx
    je 3f
    \store, (%rdi)
    \load (%rdi, %r8), \b
    cmpq %rax, %rdx
    je 4f
    \load (%rdi), \b
    cmpq %rax, %rdx
    jne 4f
    addq $SIZE, %rdi
    movl %ecx, %r9d
    movl %edi, %eax
    negl %eax
    andl $0x1000 - SIZE, %eax   /* elements as far as they are in the page */
    cmpl %eax, %ecx
    cmova %eax, %ecx
    subl %ecx, %r9d
    call copy_once
    movl %r9d, %ecx
    jmp 2f
3:  \store, (%rdi)
    addq $SIZE, %rdi
2:  cmpl $64, %ecx
    jae 0b
    jmp 5f
4:  addq $SIZE, %rdi
5:  movl $SIZE, %edx
    jmp .Lsome
    .endm

    above 3, movq, "movq %rdx", %rdx, %rax
.Labove1:
    above 0, movzbl, "movb %dl", %edx, %eax
.Labove2:
    above 1, movzwl, "movw %dx", %edx, %eax
.Labove4:
    above 2, movl, "movl %edx", %edx, %eax

/* What is left is the instruction's. */
.Lsome:
    movups (%rsp), %xmm0
    movups 16(%rsp), %xmm1
    leaq 32(%rsp), %rsp
    popq %r9
    popq %r8
.Lfew:
    tzcntl %edx, %eax
    xchgl %eax, %ecx
    shrl %cl, %eax
    movl %eax, %ecx
    back

.Lbelow:
    cmpl $32, %ecx
    jb .Lpieces
    leaq -32(%rsp), %rsp
    movups %xmm0, (%rsp)
    movups %xmm1, 16(%rsp)
    call copy_once
    movups (%rsp), %xmm0
    movups 16(%rsp), %xmm1
    leaq 32(%rsp), %rsp
    done
    .size string_copy1, . - string_copy1

/* ecx bytes, each of which is read once, before those above it are written. rax, rdx, xmm0 and xmm1
 * change. */
    .macro piece bytes, load, store, reg
    testb $\bytes, %cl
    jz 1f
    \load (%rsi), \reg
    addq $\bytes, %rsi
    \store, (%rdi)
    addq $\bytes, %rdi
1:
    .endm
    .macro less_than_16
    piece 8, movq, "movq %rdx", %rdx
    piece 4, movl, "movl %edx", %edx
    piece 2, movzwl, "movw %dx", %edx
    piece 1, movzbl, "movb %dl", %edx
    .endm

    .balign 16
    .type copy_once, @function
copy_once:
    cmpl $ALIGNED_FROM, %ecx
    jb 3f
    movl %edi, %eax
    negl %eax
    andl $15, %eax
    subl %eax, %ecx
    xchgl %eax, %ecx
    less_than_16
    movl %eax, %ecx
3:  subl $32, %ecx
    jb 4f
    .balign 16
0:  movups (%rsi), %xmm0
    movups 16(%rsi), %xmm1
    addq $32, %rsi
    movups %xmm0, (%rdi)
    movups %xmm1, 16(%rdi)
    addq $32, %rdi
    subl $32, %ecx
    jae 0b
4:  piece 16, movups, "movups %xmm0", %xmm0 /* the low five bits are what they were */
    less_than_16
    ret
    .size copy_once, . - copy_once

/* rdx becomes eight bytes of the pattern. */
    .macro fill name, shift
    begin \name, \shift
    .if \shift == 1
    movzwl %ax, %edx
    .else
    movq %rax, %rdx
    .endif
    flags_out
    .if \shift == 1
    imull $0x00010001, %edx, %edx
    .endif
    .if \shift < 3
    movl %edx, %edx
    movq %rdx, %rax
    shlq $32, %rax
    orq %rax, %rdx
    .endif
    jmp .Lfill_bytes
    .size \name, . - \name
    .endm

    fill string_fill2, 1
    fill string_fill4, 2
    fill string_fill8, 3
    begin string_fill1, 0
    movzbl %al, %edx
    flags_out
    imull $0x01010101, %edx, %edx
    movq %rdx, %rax
    shlq $32, %rax
    orq %rax, %rdx
.Lfill_bytes:
    cmpl $32, %ecx
    jae 2f
    testb $16, %cl
    jz 5f
    movups %xmm0, -16(%rsp)
    movq %rdx, %xmm0
    punpcklqdq %xmm0, %xmm0
    movups %xmm0, (%rdi)
    movups %xmm0, -16(%rdi, %rcx)
    addq %rcx, %rdi
    movups -16(%rsp), %xmm0
    done
2:  movups %xmm0, -16(%rsp)
    movups %xmm1, -32(%rsp)
    movq %rdx, %xmm0
    punpcklqdq %xmm0, %xmm0
    movaps %xmm0, %xmm1
    cmpl $ALIGNED_FROM, %ecx
    jb 3f
    movups %xmm0, (%rdi)
    movl %edi, %eax
    orq $-16, %rax
    addq %rax, %rcx             /* minus 16 to 1 */
    subq %rax, %rdi
    shll $3, %eax
    xchgl %eax, %ecx
    rolq %cl, %rdx              /* as the pattern is from there on */
    movl %eax, %ecx
    movq %rdx, %xmm1
    punpcklqdq %xmm1, %xmm1
3:  subq $32, %rcx
    jb 4f
    .balign 16
0:  movups %xmm1, (%rdi)
    movups %xmm1, 16(%rdi)
    addq $32, %rdi
    subq $32, %rcx
    jae 0b
4:  movups %xmm0, (%rdi, %rcx)
    movups %xmm0, 16(%rdi, %rcx)
    leaq 32(%rdi, %rcx), %rdi
    movups -16(%rsp), %xmm0
    movups -32(%rsp), %xmm1
    done
5:  fill_ends 8, "movq %rdx"
    fill_ends 4, "movl %edx"
    fill_ends 2, "movw %dx"
    jrcxz 9f
    movb %dl, (%rdi)
    incq %rdi
9:  done
    .size string_fill1, . - string_fill1

    .section .note.GNU-stack, "", @progbits
