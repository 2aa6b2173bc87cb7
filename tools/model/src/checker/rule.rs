//! The rules, as a report names them.

use core::fmt;

/// A rule of the translation system, or of who may write what under copy-on-write. The numbers
/// are those of `reference/translation-and-cow.md` 3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Rule {
    E1,
    E2,
    E3,
    E4,
    E5,
    E6,
    E7,
    E8,
    E9,
    E10,
    E11,
    E12,
    E13,
    E14,
}

impl Rule {
    /// All of them, in order.
    pub const ALL: [Rule; 14] = [
        Rule::E1,
        Rule::E2,
        Rule::E3,
        Rule::E4,
        Rule::E5,
        Rule::E6,
        Rule::E7,
        Rule::E8,
        Rule::E9,
        Rule::E10,
        Rule::E11,
        Rule::E12,
        Rule::E13,
        Rule::E14,
    ];

    /// The rule in a few words.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::E1 => "break before make",
            Rule::E2 => "make over an unclean entry",
            Rule::E3 => "rights relied on to be gone",
            Rule::E4 => "frame freed while cached",
            Rule::E5 => "table freed while cached",
            Rule::E6 => "TLBI that does not match",
            Rule::E7 => "ASID",
            Rule::E8 => "local TLBI for other CPUs' entries",
            Rule::E9 => "descriptor written behind the owner's back",
            Rule::E10 => "barrier too weak or missing around a TLBI",
            Rule::E11 => "order of stores and descriptors",
            Rule::E12 => "instruction fetch from stale caches",
            Rule::E13 => "writable although shared",
            Rule::E14 => "reference count",
        }
    }

    /// Why it is a rule, in one sentence.
    pub const fn why(self) -> &'static str {
        match self {
            Rule::E1 => {
                "A valid entry must go through invalid and a completed TLBI before its output \
                 address, memory type, table or globalness changes: else two translations of one \
                 page are in use at once."
            }
            Rule::E2 => {
                "An entry that was broken may be made valid again only after its old translation \
                 is gone from all TLBs (write, DSB, TLBI, DSB ISH)."
            }
            Rule::E3 => {
                "A TLB may serve the old, wider translation until a matching TLBI has completed: \
                 whoever relies on the narrower one before that is wrong."
            }
            Rule::E4 => {
                "A frame may be given back only when no translation of any CPU can reach it any \
                 more, and a free frame must not be mapped."
            }
            Rule::E5 => {
                "A table may be given back only when no walk cache leads to it: a leaf-only TLBI \
                 (VALE1, VAALE1) leaves walk caches as they are."
            }
            Rule::E6 => {
                "A TLBI removes only what its operand names: page, ASID, and intermediate entries \
                 in the non-leaf forms only."
            }
            Rule::E7 => {
                "An ASID tags the entries of one address space: it is handed out again only after \
                 a TLBI of all it tagged, and every user leaf must be non-global (nG)."
            }
            Rule::E8 => {
                "A TLBI without IS acts on the issuing CPU only: entries of an address space that \
                 ran elsewhere stay."
            }
            Rule::E9 => {
                "A table is written by the owner of its lock only: a value that changes without a \
                 write in the trace was written by somebody else."
            }
            Rule::E10 => {
                "The DSB before a TLBI makes the descriptor visible to the walkers, the DSB ISH \
                 after it waits for completion; both by the CPU that issues the TLBI."
            }
            Rule::E11 => {
                "What a descriptor leads to must be visible before the descriptor is (DMB ISHST), \
                 and the descriptor before anybody counts on it (DSB ISHST, and ISB or ERET)."
            }
            Rule::E12 => {
                "Instruction fetches see stores only after the cache maintenance of the frame, \
                 and a page is never writable and executable at once."
            }
            Rule::E13 => {
                "A private page may be writable only while one page of one address space maps its \
                 frame: else a write is seen by whoever shares it."
            }
            Rule::E14 => {
                "The kernel's reference count of a frame is the number of descriptors that map it, \
                 in distinct tables, and of its own holds."
            }
        }
    }

    /// Where it is from.
    pub const fn reference(self) -> &'static str {
        match self {
            Rule::E1 | Rule::E2 => {
                "Arm ARM DDI 0487 D8.16 (break-before-make); casemate, model.c requires_bbm"
            }
            Rule::E3 | Rule::E4 => {
                "Simner et al., Relaxed virtual memory in Armv8-A, ESOP 2022 (obtlbi); \
                 Arm ARM DDI 0487 D8.16"
            }
            Rule::E5 | Rule::E6 => {
                "Arm ARM DDI 0487 D8.17 (TLB maintenance); Linux arm64 tlbflush.h"
            }
            Rule::E7 => "Arm ARM DDI 0487 D8.16 (ASID, nG); Linux arch/arm64/mm/context.c",
            Rule::E8 => "Arm ARM DDI 0487 D8.17 (shareability of TLB maintenance)",
            Rule::E9 => "casemate (table locks); reference/translation-and-cow.md 3.2",
            Rule::E10 => {
                "Simner et al., ESOP 2022 ([W];po;[dsb], [dsb];po;[C]); \
                 Arm ARM DDI 0487 D8.17 (ordering and completion)"
            }
            Rule::E11 => {
                "Simner et al., ESOP 2022 (tfri, ContextChange;po;CSE); \
                 system-litmus-harness results"
            }
            Rule::E12 => "Arm ARM DDI 0487 B2.7 (instruction cache maintenance, IDC, DIC)",
            Rule::E13 | Rule::E14 => "reference/translation-and-cow.md 5.3 (I1 to I4)",
        }
    }

    /// What of it a stream of descriptor writes, barriers and TLBIs cannot show.
    pub const fn limits(self) -> Option<&'static str> {
        match self {
            Rule::E3 => Some(
                "reliance is seen where an operation ends (fault, fork, munmap, mprotect, exec, \
                 switch), a frame is freed or an entry is made, not inside of an operation",
            ),
            Rule::E9 => Some(
                "locks are not in the stream: only a descriptor that changed without a recorded \
                 write is seen",
            ),
            Rule::E11 => Some(
                "ERET is not in the stream: the end of an operation counts as one; contents \
                 written by another CPU than the one that maps them are ordered by a lock and \
                 not judged",
            ),
            Rule::E12 => Some(
                "the maintenance is taken as one step (its DC, IC and DSB are not recorded), and \
                 what programs or file writes store into an executable page is not seen; frames \
                 taken before the trace began are not judged",
            ),
            Rule::E13 => Some("judged on one CPU only: the stream has no order between CPUs"),
            Rule::E14 => Some(
                "only what faults say of a frame, on one CPU; the counts of tables are not in the \
                 stream",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
