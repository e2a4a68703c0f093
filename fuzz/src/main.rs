//! Runs what libFuzzer makes up on the target that SINEW_FUZZ names: see `sinew::channel::fuzz`.
#![no_main]
#![deny(unsafe_code)]
#![allow(unsafe_code, reason = "libFuzzer calls a function by its bare name")]

use std::sync::LazyLock;

// It has `main`, and turns a panic into a finding.
use libfuzzer_sys as _;

static TARGET: LazyLock<String> =
    LazyLock::new(|| std::env::var("SINEW_FUZZ").expect("SINEW_FUZZ names a target"));

// SAFETY: nothing else has this name, and it has the type that libfuzzer-sys declares.
#[unsafe(no_mangle)]
#[allow(improper_ctypes_definitions, reason = "both sides are Rust")]
extern "C" fn rust_fuzzer_test_input(input: &[u8]) -> i32 {
    assert!(sinew::channel::fuzz::run(&TARGET, input), "no target is called {:?}", *TARGET);
    0
}
