//! Arm's translation rules as a checker, and an adversarial TLB.
