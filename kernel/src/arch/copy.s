// Copies: whole pages, between kernel and user, and the register files.

    .arch_extension fp
    .arch_extension simd
    .text

// fn(to: *mut Page, from: *const Page). The registers hold the program's state: they are kept.
    .global copy_page
copy_page:
    sub     sp, sp, #128
    stp     q0, q1, [sp]
    stp     q2, q3, [sp, #32]
    stp     q4, q5, [sp, #64]
    stp     q6, q7, [sp, #96]
1:  .rept   8
    ldp     q0, q1, [x1], #32
    ldp     q2, q3, [x1], #32
    ldp     q4, q5, [x1], #32
    ldp     q6, q7, [x1], #32
    stp     q0, q1, [x0], #32
    stp     q2, q3, [x0], #32
    stp     q4, q5, [x0], #32
    stp     q6, q7, [x0], #32
    .endr
    tst     x0, #4095
    b.ne    1b
    ldp     q0, q1, [sp]
    ldp     q2, q3, [sp, #32]
    ldp     q4, q5, [sp, #64]
    ldp     q6, q7, [sp, #96]
    add     sp, sp, #128
    ret

// fn(page: *mut Page)
    .global zero_page
zero_page:
    mrs     x1, dczid_el0
    mov     x2, #4
    and     x3, x1, #0xf
    lsl     x2, x2, x3                  // bytes that one DC ZVA clears
    tbnz    x1, #4, 2f                  // DZP: prohibited
    cmp     x2, #64
    b.hi    2f
1:  .rept   64
    dc      zva, x0                     // a page is a multiple of 64 blocks
    add     x0, x0, x2
    .endr
    tst     x0, #4095
    b.ne    1b
    ret
2:  stp     xzr, xzr, [x0], #16
    stp     xzr, xzr, [x0], #16
    tst     x0, #4095
    b.ne    2b
    ret

// fn(state: *mut fp::State)
    .global fp_save
fp_save:
    stp     q0, q1, [x0], #32
    stp     q2, q3, [x0], #32
    stp     q4, q5, [x0], #32
    stp     q6, q7, [x0], #32
    stp     q8, q9, [x0], #32
    stp     q10, q11, [x0], #32
    stp     q12, q13, [x0], #32
    stp     q14, q15, [x0], #32
    stp     q16, q17, [x0], #32
    stp     q18, q19, [x0], #32
    stp     q20, q21, [x0], #32
    stp     q22, q23, [x0], #32
    stp     q24, q25, [x0], #32
    stp     q26, q27, [x0], #32
    stp     q28, q29, [x0], #32
    stp     q30, q31, [x0], #32
    mrs     x1, fpcr
    mrs     x2, fpsr
    stp     x1, x2, [x0]
    ret

// fn(state: *const fp::State)
    .global fp_restore
fp_restore:
    ldp     q0, q1, [x0], #32
    ldp     q2, q3, [x0], #32
    ldp     q4, q5, [x0], #32
    ldp     q6, q7, [x0], #32
    ldp     q8, q9, [x0], #32
    ldp     q10, q11, [x0], #32
    ldp     q12, q13, [x0], #32
    ldp     q14, q15, [x0], #32
    ldp     q16, q17, [x0], #32
    ldp     q18, q19, [x0], #32
    ldp     q20, q21, [x0], #32
    ldp     q22, q23, [x0], #32
    ldp     q24, q25, [x0], #32
    ldp     q26, q27, [x0], #32
    ldp     q28, q29, [x0], #32
    ldp     q30, q31, [x0], #32
    ldp     x1, x2, [x0]
    msr     fpcr, x1
    msr     fpsr, x2
    ret

// User memory, with the user's own permissions (LDTR, STTR). Leaf functions without a stack: a
// fault that cannot be resolved anywhere in here continues at `uaccess_fault`. Each returns 0,
// or -1 for a fault.
    .global uaccess_start
uaccess_start:

// fn(to: *mut u8, from: user address, len)
    .global uaccess_read
uaccess_read:
    subs    x2, x2, #32
    b.lo    2f
1:  ldtr    x3, [x1]
    ldtr    x4, [x1, #8]
    ldtr    x5, [x1, #16]
    ldtr    x6, [x1, #24]
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    add     x0, x0, #32
    add     x1, x1, #32
    subs    x2, x2, #32
    b.hs    1b
2:  tbz     x2, #4, 3f                  // x2 - 32 has the low bits of x2
    ldtr    x3, [x1]
    ldtr    x4, [x1, #8]
    stp     x3, x4, [x0], #16
    add     x1, x1, #16
3:  tbz     x2, #3, 4f
    ldtr    x3, [x1]
    str     x3, [x0], #8
    add     x1, x1, #8
4:  tbz     x2, #2, 5f
    ldtr    w3, [x1]
    str     w3, [x0], #4
    add     x1, x1, #4
5:  tbz     x2, #1, 6f
    ldtrh   w3, [x1]
    strh    w3, [x0], #2
    add     x1, x1, #2
6:  tbz     x2, #0, 7f
    ldtrb   w3, [x1]
    strb    w3, [x0]
7:  mov     x0, #0
    ret

// fn(to: user address, from: *const u8, len)
    .global uaccess_write
uaccess_write:
    subs    x2, x2, #32
    b.lo    2f
1:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    sttr    x3, [x0]
    sttr    x4, [x0, #8]
    sttr    x5, [x0, #16]
    sttr    x6, [x0, #24]
    add     x0, x0, #32
    add     x1, x1, #32
    subs    x2, x2, #32
    b.hs    1b
2:  tbz     x2, #4, 3f
    ldp     x3, x4, [x1], #16
    sttr    x3, [x0]
    sttr    x4, [x0, #8]
    add     x0, x0, #16
3:  tbz     x2, #3, 4f
    ldr     x3, [x1], #8
    sttr    x3, [x0]
    add     x0, x0, #8
4:  tbz     x2, #2, 5f
    ldr     w3, [x1], #4
    sttr    w3, [x0]
    add     x0, x0, #4
5:  tbz     x2, #1, 6f
    ldrh    w3, [x1], #2
    sttrh   w3, [x0]
    add     x0, x0, #2
6:  tbz     x2, #0, 7f
    ldrb    w3, [x1]
    sttrb   w3, [x0]
7:  mov     x0, #0
    ret

// fn(to: user address, len)
    .global uaccess_zero
uaccess_zero:
    subs    x1, x1, #8
    b.lo    2f
1:  sttr    xzr, [x0]
    add     x0, x0, #8
    subs    x1, x1, #8
    b.hs    1b
2:  adds    x1, x1, #8
    b.eq    4f
3:  sttrb   wzr, [x0]
    add     x0, x0, #1
    subs    x1, x1, #1
    b.ne    3b
4:  mov     x0, #0
    ret

// fn(to: *mut u8, from: user address, len) -> bytes before the NUL, or len when there is none
    .global uaccess_read_cstr
uaccess_read_cstr:
    mov     x3, #0
1:  cmp     x3, x2
    b.eq    2f
    ldtrb   w4, [x1]
    cbz     w4, 2f
    strb    w4, [x0, x3]
    add     x1, x1, #1
    add     x3, x3, #1
    b       1b
2:  mov     x0, x3
    ret

// fn(at: user address, from: u32, to: u32) -> what was there. With PAN off.
    .global uaccess_exchange
uaccess_exchange:
1:  ldaxr   w3, [x0]
    cmp     w3, w1
    b.ne    2f
    stlxr   w4, w2, [x0]
    cbnz    w4, 1b
    dmb     ish
    mov     w0, w3
    ret
2:  clrex
    mov     w0, w3
    ret

    .global uaccess_end
uaccess_end:
    .global uaccess_fault
uaccess_fault:
    mov     x0, #-1
    ret

// fn(from: *mut Context, to: *const Context)
    .global context_switch
context_switch:
    stp     x19, x20, [x0]
    stp     x21, x22, [x0, #16]
    stp     x23, x24, [x0, #32]
    stp     x25, x26, [x0, #48]
    stp     x27, x28, [x0, #64]
    stp     x29, x30, [x0, #80]
    mov     x2, sp
    str     x2, [x0, #96]
    ldp     x19, x20, [x1]
    ldp     x21, x22, [x1, #16]
    ldp     x23, x24, [x1, #32]
    ldp     x25, x26, [x1, #48]
    ldp     x27, x28, [x1, #64]
    ldp     x29, x30, [x1, #80]
    ldr     x2, [x1, #96]
    mov     sp, x2
    ret

// Where a new context begins: x19(x20), which never returns.
    .global context_start
context_start:
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    br      x19
