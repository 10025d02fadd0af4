//! Lines at the control socket, and what a client is answered, over any bytes.
//!
//! ```sh
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz control
//! ```

#![no_main]

use libfuzzer_sys::fuzz_target;
use multicast_relay::control::{Command, decode_request, decode_response, encode_request, encode_response};
use multicast_relay::rules::Rule;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(command) = decode_request(bytes) {
        assert_eq!(decode_request(encode_request(&command).trim_ascii_end()), Ok(command.clone()));
        if let Command::Add { rules } = command {
            rules.into_iter().for_each(|rule| drop(Rule::try_from(rule)));
        }
    }
    if let Ok(outcome) = decode_response(bytes) {
        assert_eq!(decode_response(encode_response(&outcome).trim_ascii_end()).unwrap(), outcome);
    }
});
