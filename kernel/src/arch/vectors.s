// Exception vectors. A frame is `TrapFrame`: x0..x30, SP_EL0 (EL1: SP), ELR_EL1, SPSR_EL1.

    // After x0 and x1 are saved; leaves x0 and x1 alone.
    .macro  save_from_x2 sp_source
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    .ifc    \sp_source, el0
    mrs     x2, sp_el0
    .else
    add     x2, sp, #{FRAME}
    .endif
    mrs     x3, elr_el1
    mrs     x4, spsr_el1
    stp     x30, x2, [sp, #240]
    stp     x3, x4, [sp, #256]
    .endm

    .macro  restore sp_target
    ldp     x3, x4, [sp, #256]
    ldp     x30, x2, [sp, #240]
    .ifc    \sp_target, el0
    msr     sp_el0, x2
    .endif
    msr     elr_el1, x3
    msr     spsr_el1, x4
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #{FRAME}
    eret
    .endm

    // What functions do not keep, but for x0 and x1. The rest stays where it is, and so do SP_EL0,
    // ELR_EL1 and SPSR_EL1: nothing interrupts what is called, it does not fault, and it leaves the
    // CPU to nobody.
    .macro  save_short
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    .endm

    .macro  restore_short
    ldp     x18, x30, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    .endm

    .macro  fatal_vector number
    .balign 128
    sub     sp, sp, #{FRAME}
    stp     x0, x1, [sp]
    mov     x0, #\number
    b       fatal_exception
    .endm

    .section .vectors, "ax"
    .balign 2048
    .global exception_vectors
exception_vectors:
    // Current EL with SP_EL0: never used.
    fatal_vector 0
    fatal_vector 1
    fatal_vector 2
    fatal_vector 3

    // Current EL, synchronous: a user access that faulted, or a bug. The stack may be what
    // overflowed: bit 14 tells a stack from the guard below it, and there is no free register
    // to test it with, so SP and x0 are added and subtracted apart again.
    .balign 128
    sub     sp, sp, #{FRAME}
    add     sp, sp, x0
    sub     x0, sp, x0
    tbz     x0, #14, stack_overflow
    sub     x0, sp, x0
    sub     sp, sp, x0
    stp     x0, x1, [sp]
    b       el1_sync

    // Current EL, IRQ: only from the idle loop.
    .balign 128
    sub     sp, sp, #{FRAME}
    stp     x0, x1, [sp]
    b       el1_irq
    fatal_vector 6
    fatal_vector 7

    // EL0, synchronous. System calls go the shortest way.
    .balign 128
    stp     x0, x1, [sp, #-{FRAME}]!
    mrs     x0, esr_el1
    lsr     x1, x0, #26
    cmp     x1, #0x15
    b.ne    el0_other
    sub     w1, w8, #{SHORT_FIRST}
    cmp     w1, #{SHORT_COUNT}
    b.lo    short_call
any_call:
    save_from_x2 el0
    mov     x0, sp
    b       saved_call

    // EL0, IRQ.
    .balign 128
    stp     x0, x1, [sp, #-{FRAME}]!
    save_from_x2 el0
    mov     x0, sp
    bl      {EL0_INTERRUPT}
    b       return_to_el0
    fatal_vector 10
    fatal_vector 11

    // EL0 in AArch32: no program of ours gets there.
    fatal_vector 12
    fatal_vector 13
    fatal_vector 14
    fatal_vector 15

    // Right behind the vectors, in reach of their branches.
    .balign 128
// A system call whose caller's registers are saved: small reads and writes may be over at once.
saved_call:
    sub     w1, w8, #{READ}
    cmp     w1, #1
    b.hi    2f
    b.eq    1f
    bl      {READ_AT_ONCE}
    cbnz    x0, return_to_el0
    mov     x0, sp
    b       2f
1:  bl      {WRITE_AT_ONCE}
    cbnz    x0, return_to_el0
    mov     x0, sp
2:  bl      {SYSCALL}
    b       return_to_el0

// A system call that only looks at something.
short_call:
    save_short
    mov     w0, w8
    bl      {SHORT_SYSCALL}
    restore_short
    cbz     x1, any_call                // a signal waits, which wants all registers
    ldr     x1, [sp, #8]
    add     sp, sp, #{FRAME}
    eret

    .balign 128
el0_other:
    orr     x1, x1, #4                  // an abort of instructions (0x20) or data (0x24)
    cmp     x1, #0x24
    b.ne    any_exception
    adrp    x1, {TRACE_MASK}
    ldr     w1, [x1, :lo12:{TRACE_MASK}]
    tbnz    w1, #{TRACE_FAULT}, any_exception
// A page fault that is not recorded, and that may be one of the common ones.
    save_short
    mrs     x2, elr_el1
    str     x2, [sp, #256]              // for who asks where the program is
    mrs     x1, far_el1
    bl      {SHORT_ABORT}
    restore_short
    cbz     w0, 1f
    ldp     x0, x1, [sp], #{FRAME}
    eret
1:  mrs     x0, esr_el1
any_exception:
    mrs     x1, pmccntr_el0             // early: the cost of a fault counts from here
    save_from_x2 el0
    mov     x2, x1
    mov     x1, x0
    mrs     x3, far_el1
    mov     x0, sp
    bl      {EL0_EXCEPTION}
return_to_el0:
    restore el0

// fn(frame: *const TrapFrame) -> !: the first way into a program.
    .global return_to_user_frame
return_to_user_frame:
    mov     sp, x0
    b       return_to_el0

el1_sync:
    mrs     x1, pmccntr_el0
    save_from_x2 el1
    mov     x2, x1
    mrs     x1, esr_el1
    mrs     x3, far_el1
    mov     x0, sp
    bl      {EL1_EXCEPTION}
    restore el1

el1_irq:
    save_from_x2 el1
    bl      {EL1_INTERRUPT}
    restore el1

fatal_exception:
    save_from_x2 el1
    mov     x1, x0
    mov     x0, sp
    mrs     x2, esr_el1
    mrs     x3, far_el1
    bl      {FATAL}

// SP and x0 are still mixed: SP = old SP - FRAME + old x0, x0 = old SP - FRAME.
stack_overflow:
    msr     tpidrro_el0, x1             // nothing returns from here: any register will do
    sub     x1, sp, x0                  // the old x0
    msr     tpidr_el0, x1
    add     x0, x0, #{FRAME}            // the old SP
    mrs     x1, tpidr_el1
    ldr     x1, [x1, #{LOCAL_EMERGENCY}]
    mov     sp, x1
    sub     sp, sp, #{FRAME}
    mrs     x1, tpidr_el0
    str     x1, [sp]
    mrs     x1, tpidrro_el0
    str     x1, [sp, #8]
    save_from_x2 el1
    str     x0, [sp, #248]
    mov     x0, sp
    mov     x1, #{OVERFLOW}
    mrs     x2, esr_el1
    mrs     x3, far_el1
    bl      {FATAL}
