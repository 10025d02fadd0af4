//! The walk through blocks and slots of a packet ring, over any bytes.
//!
//! ```sh
//! cargo install cargo-fuzz
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz ring_walk
//! ```

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../support/blocks.rs"]
mod blocks;
#[path = "../../support/walk.rs"]
mod walk;

fuzz_target!(|bytes: &[u8]| {
    walk::check_block(bytes);
    walk::check_slot(bytes);
    // What random bytes seldom are: a block that announces frames and says where they begin.
    let mut block = bytes.to_vec();
    if block.len() >= blocks::BLOCK_HEADER_LEN {
        blocks::put_u32(&mut block, blocks::BLOCK_FRAMES, 9);
        blocks::put_u32(&mut block, blocks::BLOCK_FIRST, blocks::BLOCK_HEADER_LEN as u32);
        walk::check_block(&block);
    }
});
