# A guest with names, for tests of triggers: a plain ELF kernel in long mode. It calls work() ROUNDS
# times (from the command line: a number), adds up what it returns, goes to privilege 3 and back with
# each call when the command line begins with u, prints the sum on COM1 and ends by isa-debug-exit.
    .code64
    .text
    .globl _start, work, work_end, leaf, tick, user, kernel_entry, finish

_start:
    lea stack_top(%rip), %rsp
    mov 0x228(%rsi), %ebx          # cmd_line_ptr
    xor %r14d, %r14d               # privilege 3 wanted?
    cmpb $'u', (%rbx)
    jne 1f
    inc %r14d
    inc %rbx
1:  xor %r13d, %r13d               # rounds
2:  movzbl (%rbx), %eax
    sub $'0', %eax
    cmp $9, %eax
    ja 3f
    imul $10, %r13, %r13
    add %rax, %r13
    inc %rbx
    jmp 2b
3:  xor %r12d, %r12d
    test %r14d, %r14d
    jz round
    call open_pages
    mov $0xc0000080, %ecx          # EFER.SCE
    rdmsr
    or $1, %eax
    wrmsr
    mov $0xc0000081, %ecx          # STAR: 0x10 kernel, 0x20 user
    xor %eax, %eax
    mov $0x00200010, %edx
    wrmsr
    mov $0xc0000082, %ecx          # LSTAR
    lea kernel_entry(%rip), %rax
    xor %edx, %edx
    wrmsr
    mov $0xc0000084, %ecx
    xor %eax, %eax
    wrmsr

round:
    mov %r13, %rdi
    call work
    add %rax, %r12
    rol $7, %r12
    test %r14d, %r14d
    jz tick
    lea user(%rip), %rcx
    mov $2, %r11d
    sysretq
kernel_entry:
    add %rdx, %r12
tick:
    dec %r13
    jnz round
finish:
    mov $16, %ebx
1:  rol $4, %r12
    mov %r12d, %eax
    and $15, %eax
    lea digits(%rip), %rdx
    movzbl (%rdx,%rax), %eax
    mov $0x3f8, %dx
    out %al, %dx
    dec %ebx
    jnz 1b
    mov $'\n', %al
    out %al, %dx
    mov $0xf4, %dx
    xor %eax, %eax
    out %eax, %dx
2:  hlt
    jmp 2b

# rdi: a number. rax: what becomes of it.
work:
    mov $20, %ecx
    mov %rdi, %rax
1:  imul $0x5851f42d, %rax, %rax
    add $1013, %rax
    call leaf
    dec %ecx
    jnz 1b
    ret
work_end:

leaf:
    xor $0x55, %rax
    ret

user:
    mov $30, %ecx
    xor %edx, %edx
1:  add %rcx, %rdx
    dec %ecx
    jnz 1b
    syscall

# The loader's page tables, one to one: for privilege 3 too.
open_pages:
    mov %cr3, %rdi
    orq $4, (%rdi)
    mov (%rdi), %rdi
    and $-4096, %rdi
    mov $4, %ecx
1:  orq $4, -8(%rdi,%rcx,8)
    mov -8(%rdi,%rcx,8), %rsi
    and $-4096, %rsi
    mov $512, %eax
2:  orq $4, -8(%rsi,%rax,8)
    dec %eax
    jnz 2b
    dec %ecx
    jnz 1b
    mov %cr3, %rax
    mov %rax, %cr3
    ret

    .section .rodata
digits: .ascii "0123456789abcdef"
    .bss
    .balign 16
    .skip 4096
stack_top:
