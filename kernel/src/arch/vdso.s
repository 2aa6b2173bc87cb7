// The page that the kernel maps into every program, as an ELF shared object: a C library finds its
// functions by name and version (vdso(7), "ARM64 functions"), the kernel one of them by its label.
//
// Nothing is relocated: every number is a distance from `vdso_start`.

    .section .rodata.vdso, "a"
    .balign 16
    .global vdso_start
vdso_start:
    .byte   0x7f
    .ascii  "ELF"
    .byte   2, 1, 1, 0                  // 64 bits, little endian, current version, System V
    .quad   0
    .hword  3, 183                      // ET_DYN, EM_AARCH64
    .word   1
    .quad   0                           // no entry point
    .quad   vdso_segments - vdso_start
    .quad   0                           // no section headers
    .word   0
    .hword  64, 56, 2, 64, 0, 0

vdso_segments:
    .word   1, 5                        // PT_LOAD, read and execute
    .quad   0, 0, 0
    .quad   vdso_end - vdso_start, vdso_end - vdso_start
    .quad   4096
    .word   2, 4                        // PT_DYNAMIC, read
    .quad   vdso_dynamic - vdso_start, vdso_dynamic - vdso_start, vdso_dynamic - vdso_start
    .quad   vdso_dynamic_end - vdso_dynamic, vdso_dynamic_end - vdso_dynamic
    .quad   8

    .macro  dynamic tag, value
    .quad   \tag, \value
    .endm
    .balign 8
vdso_dynamic:
    dynamic 14, vdso_soname - vdso_strings              // DT_SONAME
    dynamic 4, vdso_hash - vdso_start                   // DT_HASH
    dynamic 5, vdso_strings - vdso_start                // DT_STRTAB
    dynamic 6, vdso_symbols - vdso_start                // DT_SYMTAB
    dynamic 10, vdso_strings_end - vdso_strings         // DT_STRSZ
    dynamic 11, 24                                      // DT_SYMENT
    dynamic 0x6ffffff0, vdso_versions - vdso_start      // DT_VERSYM
    dynamic 0x6ffffffc, vdso_definitions - vdso_start   // DT_VERDEF
    dynamic 0x6ffffffd, 2                               // DT_VERDEFNUM
    dynamic 0, 0
vdso_dynamic_end:

    .macro  symbol name, at, end
    .word   \name - vdso_strings
    .byte   0x12, 0                     // a global function
    .hword  1                           // defined, in whatever section
    .quad   \at - vdso_start, \end - \at
    .endm
vdso_symbols:
    .quad   0, 0, 0
    symbol  vdso_name_sigreturn, vdso_sigreturn, vdso_clock_gettime
    symbol  vdso_name_clock_gettime, vdso_clock_gettime, vdso_gettimeofday
    symbol  vdso_name_gettimeofday, vdso_gettimeofday, vdso_clock_getres
    symbol  vdso_name_clock_getres, vdso_clock_getres, vdso_end

vdso_hash:                              // one bucket, and a chain through all symbols
    .word   1, 5
    .word   1
    .word   0, 2, 3, 4, 0

vdso_versions:                          // all functions have the version 2 below
    .hword  0, 2, 2, 2, 2
    .balign 8
vdso_definitions:
    .hword  1, 1, 1, 1                  // the file itself
    .word   0xdeebfa1, 20, 28           // hash of its name, where the name is, the next
    .word   vdso_soname - vdso_strings, 0
    .hword  1, 0, 2, 1
    .word   0x75fcb89, 20, 0
    .word   vdso_version - vdso_strings, 0

vdso_strings:
    .byte   0
vdso_soname:
    .asciz  "linux-vdso.so.1"
vdso_version:
    .asciz  "LINUX_2.6.39"
vdso_name_sigreturn:
    .asciz  "__kernel_rt_sigreturn"
vdso_name_clock_gettime:
    .asciz  "__kernel_clock_gettime"
vdso_name_gettimeofday:
    .asciz  "__kernel_gettimeofday"
vdso_name_clock_getres:
    .asciz  "__kernel_clock_getres"
vdso_strings_end:

// CLOCK_REALTIME when the counter was 0: seconds and nanoseconds. Written into the copy that
// programs get.
    .balign 8
    .global vdso_epoch
vdso_epoch:
    .quad   0, 0

    .balign 16
    nop                                 // an unwinder looks up the instruction before this one
// Unwinders know a signal's frame by these two instructions.
    .global vdso_sigreturn
vdso_sigreturn:
    mov     x8, #139
    svc     #0

// fn(clock, *mut timespec) -> error. x2: seconds, x3: nanoseconds.
    .balign 16
vdso_clock_gettime:
    cmp     w0, #7                      // CLOCK_BOOTTIME is the highest of the easy ones
    b.hi    1f
    mov     w4, #0x21                   // REALTIME, REALTIME_COARSE
    mov     w5, #0xd2                   // MONOTONIC, MONOTONIC_RAW, MONOTONIC_COARSE, BOOTTIME
    mov     w6, #1
    lsl     w6, w6, w0
    tst     w6, w4
    b.ne    2f
    tst     w6, w5
    b.ne    3f
1:  mov     x8, #113
    svc     #0
    ret
2:  mov     x7, x30
    bl      vdso_realtime
    mov     x30, x7
    b       4f
3:  mov     x7, x30
    bl      vdso_monotonic
    mov     x30, x7
4:  stp     x2, x3, [x1]
    mov     x0, #0
    ret

// x2, x3: the time since the counter was 0, exactly as the kernel computes it. Changes x4 to x6.
vdso_monotonic:
    isb
    mrs     x2, cntvct_el0
    mrs     x4, cntfrq_el0
    mov     x5, x2
    udiv    x2, x5, x4
    msub    x3, x2, x4, x5
    mov     w6, #0xca00
    movk    w6, #0x3b9a, lsl #16        // 10^9
    mul     x3, x3, x6
    udiv    x3, x3, x4
    ret

// The same since 1970.
vdso_realtime:
    mov     x8, x30
    bl      vdso_monotonic
    mov     x30, x8
    adr     x4, vdso_epoch
    ldp     x4, x5, [x4]
    add     x2, x2, x4
    add     x3, x3, x5
    cmp     x3, x6
    b.lo    1f
    sub     x3, x3, x6
    add     x2, x2, #1
1:  ret

// fn(*mut timeval, *mut timezone) -> error.
    .balign 16
vdso_gettimeofday:
    cbz     x0, 1f
    cbnz    x1, 1f
    mov     x7, x30
    bl      vdso_realtime
    mov     x30, x7
    mov     x4, #1000
    udiv    x3, x3, x4
    stp     x2, x3, [x0]
    mov     x0, #0
    ret
1:  mov     x8, #169
    svc     #0
    ret

// fn(clock, *mut timespec) -> error.
    .balign 16
vdso_clock_getres:
    mov     x8, #114
    svc     #0
    ret
    .balign 16
    .global vdso_end
vdso_end:
