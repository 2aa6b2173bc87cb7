// memcpy, memmove and memset for the compiler's own use, in place of the generic ones, which copy word by
// word: a fault moves several structures of 50 to 100 bytes. General registers only, since the
// others are the program's; unaligned accesses, so not before the MMU is on.

    .text

// fn(to: *mut u8, from: *const u8, len) -> to
    .global memcpy
memcpy:
    cmp     x2, #16
    b.lo    4f
    mov     x3, x0
    add     x4, x1, x2
    add     x5, x0, x2
    ldp     x6, x7, [x4, #-16]          // the last 16 bytes, stored at the end whatever is left
    sub     x2, x2, #16
1:  subs    x2, x2, #32
    b.lo    2f
    ldp     x8, x9, [x1], #16
    ldp     x10, x11, [x1], #16
    stp     x8, x9, [x3], #16
    stp     x10, x11, [x3], #16
    b       1b
2:  tbz     x2, #4, 3f                  // x2 - 32 has the low bits of what is left before them
    ldp     x8, x9, [x1], #16
    stp     x8, x9, [x3], #16
3:  tst     x2, #15
    b.eq    9f
    ldp     x8, x9, [x1]                // may reach into the last 16, never beyond
    stp     x8, x9, [x3]
9:  stp     x6, x7, [x5, #-16]
    ret
4:  add     x4, x1, x2
    add     x5, x0, x2
    tbz     x2, #3, 5f
    ldr     x6, [x1]
    ldr     x7, [x4, #-8]
    str     x6, [x0]
    str     x7, [x5, #-8]
    ret
5:  tbz     x2, #2, 6f
    ldr     w6, [x1]
    ldr     w7, [x4, #-4]
    str     w6, [x0]
    str     w7, [x5, #-4]
    ret
6:  cbz     x2, 7f
    ldrb    w6, [x1]
    tbz     x2, #1, 8f
    ldrh    w7, [x4, #-2]
    strh    w7, [x5, #-2]
8:  strb    w6, [x0]
7:  ret

// fn(to: *mut u8, from: *const u8, len) -> to. memcpy loads before it stores what may lie on it, if
// that is further up; so if it is further down, this goes down, and stores the first 16 bytes last.
    .global memmove
memmove:
    sub     x3, x0, x1
    cmp     x3, x2
    b.hs    memcpy
    cmp     x2, #16
    b.lo    memcpy
    add     x4, x1, x2
    add     x5, x0, x2
    ldp     x6, x7, [x1]
    subs    x2, x2, #16
    b.eq    2f
1:  ldp     x8, x9, [x4, #-16]!
    stp     x8, x9, [x5, #-16]!
    subs    x2, x2, #16
    b.hi    1b
2:  stp     x6, x7, [x0]
    ret

// fn(to: *mut u8, byte, len) -> to
    .global memset
memset:
    and     x1, x1, #0xff
    mov     x3, #0x0101010101010101
    mul     x1, x1, x3
    mov     x3, x0
    add     x5, x0, x2
    subs    x2, x2, #16
    b.lo    3f
1:  subs    x2, x2, #32
    b.lo    2f
    stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
    b       1b
2:  tbz     x2, #4, 4f
    stp     x1, x1, [x3], #16
4:  tst     x2, #15
    b.eq    5f
    stp     x1, x1, [x3]
5:  stp     x1, x1, [x5, #-16]
    ret
3:  adds    x2, x2, #16
    b.eq    7f
6:  strb    w1, [x3], #1
    cmp     x3, x5
    b.lo    6b
7:  ret
