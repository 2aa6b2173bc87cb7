// The head: from wherever the boot loader put the image, at EL2 or EL1 with MMU and caches off,
// to `kernel_main` at the linked address with both on. Position independent; fits in one page.
//
// x20 physical address of the image, x21 the boot loader's x0, x22 exception level at entry.

    .section .head, "ax"
    .global _start
_start:
    // The arm64 Image header (Linux, Documentation/arch/arm64/booting).
    b       primary
    .long   0
    .quad   0                           // text_offset: at the 2 MiB boundary itself
    .quad   __image_size                // with bss, stacks and tables
    .quad   0xa                         // little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

primary:
    msr     daifset, #15
    mov     x21, x0
    adr     x20, _start
    mrs     x22, CurrentEL
    lsr     x22, x22, #2
    cmp     x22, #2
    b.lo    at_el1
    b.hi    park                        // EL3: not our protocol
    adr     x30, at_el1
    b       drop_to_el1

at_el1:
    ldr     x0, ={SCTLR_OFF}
    msr     sctlr_el1, x0
    isb

    // Tables: 0..2 identity map, 3 kernel root, 4 image level 2, 5..8 image level 3, 9 windows.
    adrp    x23, __boot_tables
    adrp    x24, __boot_tables_end
    mov     x0, x23
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x24
    b.lo    1b

    // Identity map: this page only, so that nothing but the head is executable there.
    ldr     x5, ={RX}
    ubfx    x0, x20, #30, #9
    add     x1, x23, #4096
    orr     x2, x1, #3
    str     x2, [x23, x0, lsl #3]
    ubfx    x0, x20, #21, #9
    add     x3, x23, #8192
    orr     x2, x3, #3
    str     x2, [x1, x0, lsl #3]
    ubfx    x0, x20, #12, #9
    orr     x2, x20, x5
    str     x2, [x3, x0, lsl #3]

    // The image, each section with what its pages permit.
    add     x0, x23, #3 * 4096          // root
    add     x1, x23, #4 * 4096
    orr     x2, x1, #3
    str     x2, [x0, #510 * 8]
    add     x3, x23, #9 * 4096
    orr     x2, x3, #3
    str     x2, [x0, #511 * 8]
    add     x6, x23, #5 * 4096          // level 3, contiguous
    orr     x2, x6, #3
    mov     x4, #4
2:  str     x2, [x1], #8
    add     x2, x2, #4096
    subs    x4, x4, #1
    b.ne    2b

    mov     x0, x20
    adrp    x1, __text_end
    bl      map_image                   // x5: RX from above
    adrp    x0, __text_end
    adrp    x1, __rodata_end
    ldr     x5, ={RO}
    bl      map_image
    adrp    x0, __rodata_end
    adrp    x1, __boot_stack_guard
    ldr     x5, ={RW}
    bl      map_image
    adrp    x0, __boot_stack
    adrp    x1, __image_end
    bl      map_image

    // The stores went past the caches: drop any stale clean line that a walk could hit.
    mrs     x0, ctr_el0
    ubfx    x0, x0, #16, #4
    mov     x1, #4
    lsl     x1, x1, x0                  // smallest data cache line
    dsb     sy
    mov     x0, x23
3:  dc      ivac, x0
    add     x0, x0, x1
    cmp     x0, x24
    b.lo    3b
    dsb     sy

    mov     x0, x23
    ldr     x8, =high_entry
    b       mmu_on

// Turns the MMU and the caches on with the tables that x23 starts, by way of the identity root in
// x0, and goes on at x8. Each core sets up what it has itself.
mmu_on:
    msr     ttbr0_el1, x0
    add     x0, x23, #3 * 4096
    msr     ttbr1_el1, x0
    ldr     x0, ={MAIR}
    msr     mair_el1, x0
    // TCR: physical address size and ASID width by what the core has.
    ldr     x0, ={TCR}
    mrs     x1, id_aa64mmfr0_el1
    and     x2, x1, #0xf
    mov     x3, #5                      // 48 bits: more needs another descriptor format
    cmp     x2, x3
    csel    x2, x2, x3, lo
    orr     x0, x0, x2, lsl #32
    ubfx    x2, x1, #4, #4
    cmp     x2, #2
    cset    x2, eq
    orr     x0, x0, x2, lsl #36
    msr     tcr_el1, x0
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x0, ={SCTLR_ON}
    // SPAN=0, "set PAN at every exception", means something only where PAN exists.
    mrs     x1, id_aa64mmfr1_el1
    tst     x1, #(0xf << 20)
    cset    x1, eq
    orr     x0, x0, x1, lsl #23
    msr     sctlr_el1, x0
    isb
    br      x8

// Maps [x0, x1) of the image with the attributes in x5; x6: level 3; x20: image.
map_image:
    cmp     x0, x1
    b.hs    2f
    sub     x2, x0, x20
    lsr     x2, x2, #12
    orr     x3, x0, x5
    str     x3, [x6, x2, lsl #3]
    add     x0, x0, #4096
    b       map_image
2:  ret

// EL2 to EL1, returning to x30. Nothing of EL2 stays in use.
drop_to_el1:
    mov     x0, #(1 << 31)              // RW: EL1 is AArch64
    msr     hcr_el2, x0
    mov     x0, #3                      // EL1 may use the physical counter and timer
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    mov     x0, #0x33ff                 // no FP trap
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    mrs     x0, midr_el1
    msr     vpidr_el2, x0
    mrs     x1, mpidr_el1
    msr     vmpidr_el2, x1
    mrs     x1, pmcr_el0                // all counters belong to EL1, no debug traps
    ubfx    x1, x1, #11, #5
    msr     mdcr_el2, x1
    mrs     x1, id_aa64pfr0_el1
    ubfx    x1, x1, #24, #4
    cbz     x1, 1f
    mov     x1, #0xf                    // GICv3: system registers at EL2, and allowed at EL1
    msr     S3_4_C12_C9_5, x1
    isb
1:  // Cortex-A53 and A72 take part in coherency only with CPUECTLR_EL1.SMPEN. Firmware sets it;
    // the write may trap to EL3, so it is tried only where everything else would be lost anyway.
    ubfx    x1, x0, #4, #12
    sub     x2, x1, #0xd03
    cbz     x2, 3f
    cmp     x2, #0xd08 - 0xd03
    b.ne    2f
3:
    lsr     x1, x0, #24
    cmp     x1, #0x41
    b.ne    2f
    mrs     x1, S3_1_C15_C2_1
    tbnz    x1, #6, 2f
    orr     x1, x1, #0x40
    msr     S3_1_C15_C2_1, x1
    isb
2:  ldr     x0, ={SCTLR_OFF}
    msr     sctlr_el1, x0
    mov     x0, #0x3c5                  // EL1h, all masked
    msr     spsr_el2, x0
    msr     elr_el2, x30
    eret

// A secondary core, MMU off, at EL2 or EL1: takes over the tables of the boot core.
    .global secondary_entry
secondary_entry:
    msr     daifset, #15
    mrs     x22, CurrentEL
    lsr     x22, x22, #2
    cmp     x22, #2
    b.lo    1f
    b.hi    park
    adr     x30, 1f
    b       drop_to_el1
1:  ldr     x0, ={SCTLR_OFF}
    msr     sctlr_el1, x0
    isb
    adrp    x23, __boot_tables
    adrp    x0, IDENTITY_ROOT
    ldr     x8, =secondary_high_entry
    b       mmu_on

// Not in WFE: QEMU spins there, which costs the host a core each.
park:
    wfi
    b       park

    .ltorg

// At the linked address, MMU and caches on.
    .section .text.high_entry, "ax"
    .global high_entry
high_entry:
    adrp    x0, __boot_stack_top
    mov     sp, x0
    adrp    x0, exception_vectors
    add     x0, x0, :lo12:exception_vectors
    msr     vbar_el1, x0
    adrp    x0, CPUS                    // CPU 0's
    add     x0, x0, :lo12:CPUS
    msr     tpidr_el1, x0
    isb
    adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    adrp    x1, __bss_end
    add     x1, x1, :lo12:__bss_end
1:  cmp     x0, x1
    b.hs    2f
    stp     xzr, xzr, [x0], #16
    b       1b
2:  mov     x0, x20
    mov     x1, x21
    mov     x2, x22
    mov     x29, xzr
    mov     x30, xzr
    bl      kernel_main

// The same for a secondary core. Cores are started one at a time: what is waiting is for this one,
// or for one that took too long.
    .global secondary_high_entry
secondary_high_entry:
    adrp    x0, exception_vectors
    add     x0, x0, :lo12:exception_vectors
    msr     vbar_el1, x0
    isb
    adrp    x1, STARTING
    add     x1, x1, :lo12:STARTING
1:  ldaxr   x0, [x1]
    stlxr   w2, xzr, [x1]
    cbnz    w2, 1b
    cbz     x0, 2f
    msr     tpidr_el1, x0
    ldr     x1, [x0, #{LOCAL_STACK}]
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    bl      secondary_main
2:  wfi
    b       2b
