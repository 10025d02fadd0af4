//! What the program needs to verify a payload: what each byte of its head, and each filler, adds to the checksums.
//!
//! A CRC is linear: that of the exclusive or of two payloads is the exclusive or of theirs, and of that of zeros. So it
//! is taken of payloads that are zero but for a single byte, or for the filler, and the program adds up. The sum of a
//! UDP checksum is made of parts in any case.

use crate::checksum;
use crate::datagram::{CRC8, Encoder, FILLER_STARTS, MIN_BYTES, STAMPED_BYTES, crc8, crc32};

/// 64-bit words of filler that the program has room for (`FILLER_WORDS` of the program).
const FILLER_WORDS: usize = 4_608;

/// 32-bit words of the map's value (`struct checks` of the program).
pub(super) const WORDS: usize = STAMPED_BYTES * 256 + CRC8 * 256 / 4 + FILLER_STARTS * 2 + FILLER_WORDS * 2;

/// The longest payload whose filler has room.
pub(super) const MAX_PAYLOAD_BYTES: usize = (FILLER_WORDS - FILLER_STARTS) * 8;

/// Everything that depends on the length of the payload alone.
#[derive(Debug)]
pub(super) struct Checks {
    pub(super) crc32_of_zeros: u32,
    pub(super) crc8_of_zeros: u8,
    /// The map's value, as it lies in memory.
    words: Vec<u32>,
}

impl Checks {
    /// For payloads of `payload_bytes`, at most [`MAX_PAYLOAD_BYTES`].
    pub(super) fn new(payload_bytes: usize) -> Self {
        let encoder = Encoder::new(payload_bytes);
        let mut payload = vec![0; encoder.payload_bytes()];
        let (crc32_of_zeros, crc8_of_zeros) = (crc32(&payload), crc8(&[0; CRC8]));
        let mut words = Vec::with_capacity(WORDS);
        for at in 0..STAMPED_BYTES {
            words.extend(of_byte(|byte| match payload.get_mut(at) {
                Some(place) => {
                    *place = byte;
                    let crc = crc32(&payload) ^ crc32_of_zeros;
                    payload[at] = 0;
                    crc
                }
                None => 0,
            }));
        }
        for at in 0..CRC8 {
            let mut head = [0; CRC8];
            let adds = |byte| {
                head[at] = byte;
                u32::from(crc8(&head) ^ crc8_of_zeros)
            };
            let bytes = of_byte(adds).map(|adds| adds as u8);
            words.extend(bytes.as_chunks::<4>().0.iter().map(|four| u32::from_ne_bytes(*four)));
        }
        let head = if payload.len() < STAMPED_BYTES { MIN_BYTES } else { STAMPED_BYTES };
        let length = payload.len() - head;
        for filler in (0..FILLER_STARTS).filter_map(|start| encoder.filler().get(start * 8..)) {
            let filler = &filler[..length];
            payload[head..].copy_from_slice(filler);
            // Folding comes with the program's own sum: here it only has to fit.
            words.extend([crc32(&payload) ^ crc32_of_zeros, (checksum::add(0, filler) % 0xFFFF) as u32]);
        }
        words.extend(encoder.filler().as_chunks::<4>().0.iter().map(|four| u32::from_ne_bytes(*four)));
        words.resize(words.len().max(WORDS), 0);
        Self { crc32_of_zeros, crc8_of_zeros, words }
    }

    /// The map's value.
    ///
    /// # Errors
    /// Too much filler: the payloads are longer than [`MAX_PAYLOAD_BYTES`].
    pub(super) fn value(&self) -> Result<&[u32; WORDS], String> {
        let value = self.words.as_slice().try_into();
        value.map_err(|_| format!("payloads over {MAX_PAYLOAD_BYTES} bytes have no room in the program"))
    }
}

/// What each value of a byte adds, from what each bit of it adds.
fn of_byte(mut adds: impl FnMut(u8) -> u32) -> [u32; 256] {
    let mut table = [0; 256];
    for value in 1..256_usize {
        let without_lowest = value & (value - 1);
        table[value] = if without_lowest == 0 {
            adds(value as u8)
        } else {
            table[without_lowest] ^ table[value ^ without_lowest]
        };
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::{Header, Kind, Stamps};

    /// Adds up as the program does.
    fn crc32_of(checks: &Checks, payload: &[u8], window: usize) -> u32 {
        let head = payload.iter().take(STAMPED_BYTES).enumerate();
        let known = |at: usize| payload.len() >= STAMPED_BYTES || at < MIN_BYTES;
        let bytes = head.filter(|(at, _)| known(*at) && !(14..18).contains(at));
        let adds = bytes.map(|(at, byte)| checks.words[at * 256 + usize::from(*byte)]);
        let windows = STAMPED_BYTES * 256 + CRC8 * 64;
        adds.fold(checks.crc32_of_zeros ^ checks.words[windows + window * 2], |crc, adds| crc ^ adds)
    }

    #[test]
    fn what_the_parts_add_up_to_is_the_checksum() {
        for payload_bytes in [18, 25, 33, 34, 41, 100, 1_472, 3_458] {
            let (checks, encoder) = (Checks::new(payload_bytes), Encoder::new(payload_bytes));
            let head = if payload_bytes < STAMPED_BYTES { MIN_BYTES } else { STAMPED_BYTES };
            for sequence in 0..50 {
                let mut payload = vec![0; payload_bytes];
                let header = Header { run: 0xBEEF, flow: 3, sequence: sequence * 977, kind: Kind::Measured };
                encoder.encode(
                    &mut payload,
                    &header,
                    Stamps { intended_ns: u64::MAX / 3, actual_ns: sequence },
                );
                // Whichever window has this filler; without any, all of them are alike.
                let tail = &payload[head..];
                let window =
                    (0..FILLER_STARTS).find(|start| encoder.filler()[start * 8..].starts_with(tail)).unwrap();
                let field = u32::from_be_bytes([payload[14], payload[15], payload[16], payload[17]]);
                assert_eq!(crc32_of(&checks, &payload, window), field, "{payload_bytes} bytes");
            }
        }
    }
}
