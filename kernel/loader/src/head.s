// From wherever the firmware put the loader to where it is linked, at the exception level it was
// started at, MMU and data cache off. x0: the device tree, or what else the firmware left there.

    .section .head, "ax"
    .global _start
_start:
    // The arm64 Image header (Linux, Documentation/arch/arm64/booting).
    b       1f
    .long   0
    .quad   0
    .quad   __size
    .quad   0xa
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

1:  msr     daifset, #15
    mov     x21, x0
    adr     x20, _start
    ldr     x1, =__start
    ldr     x2, =__loaded_end
    mov     x3, x20
    cmp     x1, x3
    b.eq    3f
2:  ldp     x4, x5, [x3], #16
    stp     x4, x5, [x1], #16
    cmp     x1, x2
    b.lo    2b
    // What was copied past the caches is fetched anew.
3:  dsb     sy
    ic      iallu
    dsb     sy
    isb
    ldr     x1, =moved
    br      x1

moved:
    ldr     x1, =__bss_start
    ldr     x2, =__bss_end
4:  cmp     x1, x2
    b.hs    5f
    stp     xzr, xzr, [x1], #16
    b       4b
5:  ldr     x1, =__stack_top
    mov     sp, x1
    ldr     x1, =vectors
    mrs     x2, CurrentEL
    lsr     x2, x2, #2
    cmp     x2, #2
    b.hi    park                        // EL3: not our protocol
    b.lo    6f
    // Instructions may be cached with the MMU off, and without it every one comes from RAM.
    msr     vbar_el2, x1
    mrs     x1, sctlr_el2
    orr     x1, x1, #(1 << 12)
    msr     sctlr_el2, x1
    b       7f
6:  msr     vbar_el1, x1
    mrs     x1, sctlr_el1
    orr     x1, x1, #(1 << 12)
    msr     sctlr_el1, x1
7:  isb
    mov     x0, x21
    mov     x1, x20
    mov     x29, xzr
    mov     x30, xzr
    bl      loader_main
park:
    wfi
    b       park

// fn(entry, tree) -> !: to the kernel, with everything as the firmware would leave it.
    .global leave
leave:
    mov     x20, x0
    mov     x0, x1
    mrs     x2, CurrentEL
    lsr     x2, x2, #2
    cmp     x2, #2
    b.lo    8f
    mrs     x1, sctlr_el2
    bic     x1, x1, #(1 << 12)
    msr     sctlr_el2, x1
    b       9f
8:  mrs     x1, sctlr_el1
    bic     x1, x1, #(1 << 12)
    msr     sctlr_el1, x1
9:  dsb     sy
    isb
    ic      iallu
    dsb     sy
    isb
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    br      x20

    .ltorg

// Every exception is the end.
    .section .vectors, "ax"
    .balign 2048
vectors:
    .rept   16
    b       exception
    .balign 128
    .endr
exception:
    mrs     x3, CurrentEL
    lsr     x3, x3, #2
    cmp     x3, #2
    b.lo    1f
    mrs     x0, esr_el2
    mrs     x1, elr_el2
    mrs     x2, far_el2
    b       2f
1:  mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
2:  ldr     x3, =__stack_top
    mov     sp, x3
    bl      loader_exception
    .ltorg
