#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causeway_fuzz::proxy_header::check(input));
