//! The Internet checksum (RFC 1071), in the form generator and sink both need: a sum that can be continued.

/// Adds `bytes` to a running one's complement `sum`, in the machine's byte order (RFC 1071 §2(B): the order does
/// not matter until the end). Parts before the last one must have an even length.
#[must_use]
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let mut sum = sum;
    for word in &mut words {
        // Cannot overflow: 2^32 words of 32 bits fit, and no packet has that many.
        sum += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut tail = [0; 4];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    sum + u64::from(u32::from_ne_bytes(tail))
}

/// Folds a running sum into the 16-bit checksum, in host order: what a header field holds when written big endian.
#[must_use]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// Whether a sum over data that includes its own checksum field proves the data whole.
#[must_use]
pub fn verifies(sum: u64) -> bool {
    fold(sum) == 0xFFFF
}

fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::from_be(sum as u16)
}

/// The sum over the pseudo-header of UDP: addresses (4 or 16 bytes each), protocol 17 and the UDP length
/// (RFC 768, RFC 8200 §8.1).
#[must_use]
pub fn udp_pseudo_header(source: &[u8], destination: &[u8], udp_length: u32) -> u64 {
    let sum = add(add(0, source), destination);
    add(add(sum, &udp_length.to_be_bytes()), &[0, 0, 0, 17])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_pnet(bytes in proptest::collection::vec(any::<u8>(), 2..300)) {
            // pnet skips the word at the given index: a header whose checksum field is outside it skips none.
            let theirs = pnet_packet::util::checksum(&bytes, usize::MAX);
            prop_assert_eq!(finish(add(0, &bytes)), theirs);
        }

        #[test]
        fn can_be_continued(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..150) {
            let at = (at * 2).min(bytes.len() & !1);
            let parts = add(add(0, &bytes[..at]), &bytes[at..]);
            prop_assert_eq!(finish(parts), finish(add(0, &bytes)));
        }

        #[test]
        fn data_with_its_checksum_verifies(mut bytes in proptest::collection::vec(any::<u8>(), 2..300)) {
            bytes[..2].fill(0);
            let checksum = finish(add(0, &bytes));
            bytes[..2].copy_from_slice(&checksum.to_be_bytes());
            prop_assert!(verifies(add(0, &bytes)));
        }
    }
}
