//! What a lab datagram's payload says, and how anybody can tell whether it arrived whole.
//!
//! Layout, big endian, at least [`MIN_BYTES`] long:
//!
//! | at | what |
//! |---|---|
//! | 0 | run id, u16 |
//! | 2 | flow, u16 |
//! | 4 | sequence within the flow and kind, u64 |
//! | 12 | kind in the low nibble (0 warm-up, 1 measured); bit 7: stamped |
//! | 13 | CRC-8 over bytes 0..13: is the header readable although the payload is damaged? |
//! | 14 | CRC-32 (IEEE) over the whole payload with this field zero |
//! | 18 | intended send time, u64 ns of `CLOCK_REALTIME`; only when stamped |
//! | 26 | time the datagram was handed to the kernel, likewise |
//! | 34 (18 when not stamped) | filler that differs from datagram to datagram |
//!
//! The filler changes with the sequence so that a relay that joins the head of one datagram to the tail of another
//! is found out.

/// The shortest payload: identity and both checksums, which is also what fits a minimal Ethernet frame (60 bytes)
/// beside Ethernet, IPv4 and UDP headers.
pub const MIN_BYTES: usize = 18;
/// From this length on a payload carries send times.
pub const STAMPED_BYTES: usize = 34;

const FLOW: usize = 2;
const SEQUENCE: usize = 4;
const KIND: usize = 12;
pub(crate) const CRC8: usize = 13;
/// Where the CRC-32 is.
pub(crate) const CRC32: usize = 14;
pub(crate) const INTENDED: usize = 18;
/// Where a stamped payload says when it was handed to the kernel.
pub(crate) const ACTUAL: usize = 26;

const STAMPED: u8 = 0x80;
const KIND_MASK: u8 = 0x0F;

/// Whether a datagram belongs to the measured sequence or only warms the path up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sent before the measurement; loss of it is not counted.
    WarmUp,
    /// Part of the plan's exact count.
    Measured,
}

/// Which datagram this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Tells one trial's datagrams from another's.
    pub run: u16,
    /// Index into the plan's flows.
    pub flow: u16,
    /// Counts from 0 within a flow and kind.
    pub sequence: u64,
    /// Warm-up or measured.
    pub kind: Kind,
}

/// Send times, ns of `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// When the schedule wanted it to leave.
    pub intended_ns: u64,
    /// When it was handed to the kernel (one reading for all datagrams of a batch).
    pub actual_ns: u64,
}

/// A datagram that arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Which one.
    pub header: Header,
    /// Present in payloads of at least [`STAMPED_BYTES`].
    pub stamps: Option<Stamps>,
}

/// Why a payload is not an intact lab datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// The checksum over everything is wrong, the one over the header is right.
    #[error("payload damaged, header readable: flow {} sequence {}", .0.flow, .0.sequence)]
    Damaged(Header),
    /// Neither checksum holds, or it never was a lab datagram.
    #[error("not readable as a lab datagram")]
    Unreadable,
    /// Shorter than [`MIN_BYTES`].
    #[error("{0} bytes, shorter than any lab datagram")]
    TooShort(usize),
}

/// Reads a payload of any length and content.
///
/// # Errors
/// [`Undecodable`] says how much of it can still be believed.
pub fn decode(payload: &[u8]) -> Result<Datagram, Undecodable> {
    let Some(fixed) = payload.first_chunk::<MIN_BYTES>() else {
        return Err(Undecodable::TooShort(payload.len()));
    };
    let header = read_header(fixed).ok_or(Undecodable::Unreadable)?;
    if u32::from_be_bytes([fixed[14], fixed[15], fixed[16], fixed[17]]) != crc32(payload) {
        return Err(Undecodable::Damaged(header));
    }
    let stamps = match (fixed[KIND] & STAMPED != 0, payload.first_chunk::<STAMPED_BYTES>()) {
        (false, _) => None,
        (true, Some(stamped)) => {
            Some(Stamps { intended_ns: read_u64(stamped, INTENDED), actual_ns: read_u64(stamped, ACTUAL) })
        }
        (true, None) => return Err(Undecodable::Unreadable),
    };
    Ok(Datagram { header, stamps })
}

/// The run id a payload claims, believable or not; `None` when it is too short to hold one.
pub fn claimed_run(payload: &[u8]) -> Option<u16> {
    payload.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

fn read_header(fixed: &[u8; MIN_BYTES]) -> Option<Header> {
    if crc8(&fixed[..CRC8]) != fixed[CRC8] {
        return None;
    }
    let kind = match fixed[KIND] & !STAMPED {
        0 => Kind::WarmUp,
        1 => Kind::Measured,
        _ => return None,
    };
    Some(Header {
        run: u16::from_be_bytes([fixed[0], fixed[1]]),
        flow: u16::from_be_bytes([fixed[FLOW], fixed[FLOW + 1]]),
        sequence: read_u64(fixed, SEQUENCE),
        kind,
    })
}

/// Reads at a constant offset that lies inside both fixed-size heads.
fn read_u64<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(field)
}

/// Writes payloads of one length; holds the filler they are cut from.
#[derive(Debug)]
pub struct Encoder {
    payload_bytes: usize,
    filler: Box<[u8]>,
}

/// Distinct places a filler can start at, 8 bytes apart.
pub(crate) const FILLER_STARTS: usize = 4096;

impl Encoder {
    /// Prepares payloads of `payload_bytes`; lengths below [`MIN_BYTES`] are raised to it.
    #[must_use]
    pub fn new(payload_bytes: usize) -> Self {
        let payload_bytes = payload_bytes.max(MIN_BYTES);
        let words = (FILLER_STARTS * 8 + payload_bytes).div_ceil(8);
        let filler = (0..words as u64).flat_map(|word| mix(word).to_ne_bytes()).collect();
        Self { payload_bytes, filler }
    }

    /// The length of every payload it writes.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// What fillers are cut from: the one at each multiple of 8 below 8 times [`FILLER_STARTS`] is as good as another.
    pub(crate) fn filler(&self) -> &[u8] {
        &self.filler
    }

    /// What each value of each byte of the actual time, high byte first, changes in the CRC-32 of a payload that has zero
    /// there: CRCs are linear, so who writes the time later mends the CRC-32 with eight of these. `None` for payloads
    /// that carry no time.
    pub(crate) fn changes_by_actual_time(&self) -> Option<Box<[[u32; 256]; 8]>> {
        let mut payload = vec![0; self.payload_bytes];
        let without = crc32fast::hash(&payload);
        let mut changes = Box::new([[0; 256]; 8]);
        for (index, of_byte) in changes.iter_mut().enumerate() {
            for (value, change) in (0..=u8::MAX).zip(of_byte.iter_mut()) {
                *payload.get_mut(ACTUAL..STAMPED_BYTES)?.get_mut(index)? = value;
                *change = crc32fast::hash(&payload) ^ without;
            }
            payload[ACTUAL + index] = 0;
        }
        Some(changes)
    }

    /// Writes the datagram into the first [`Self::payload_bytes`] bytes of `payload`; a shorter buffer is left alone.
    pub fn encode(&self, payload: &mut [u8], header: &Header, stamps: Stamps) {
        let Some(payload) = payload.get_mut(..self.payload_bytes) else { return };
        let stamped = self.payload_bytes >= STAMPED_BYTES;
        payload[..FLOW].copy_from_slice(&header.run.to_be_bytes());
        payload[FLOW..SEQUENCE].copy_from_slice(&header.flow.to_be_bytes());
        payload[SEQUENCE..KIND].copy_from_slice(&header.sequence.to_be_bytes());
        let kind = match header.kind {
            Kind::WarmUp => 0,
            Kind::Measured => 1,
        };
        payload[KIND] = (kind & KIND_MASK) | if stamped { STAMPED } else { 0 };
        payload[CRC8] = crc8(&payload[..CRC8]);
        payload[CRC32..MIN_BYTES].fill(0);
        let rest = if stamped {
            payload[INTENDED..ACTUAL].copy_from_slice(&stamps.intended_ns.to_be_bytes());
            payload[ACTUAL..STAMPED_BYTES].copy_from_slice(&stamps.actual_ns.to_be_bytes());
            STAMPED_BYTES
        } else {
            MIN_BYTES
        };
        let start = (mix(header.sequence ^ (u64::from(header.flow) << 48)) as usize % FILLER_STARTS) * 8;
        let length = self.payload_bytes - rest;
        payload[rest..].copy_from_slice(&self.filler[start..start + length]);
        let whole = crc32fast::hash(payload);
        payload[CRC32..MIN_BYTES].copy_from_slice(&whole.to_be_bytes());
    }
}

/// CRC-32 over the payload with its own field taken as zero; 0 for payloads too short to have one.
pub(crate) fn crc32(payload: &[u8]) -> u32 {
    let (Some(head), Some(tail)) = (payload.get(..CRC32), payload.get(MIN_BYTES..)) else { return 0 };
    // One short update of head and zeroed field, then the rest in one piece: the fast path needs long pieces.
    let mut start = [0; MIN_BYTES];
    start[..CRC32].copy_from_slice(head);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&start);
    hasher.update(tail);
    hasher.finalize()
}

/// CRC-8, polynomial x^8+x^2+x+1, starting from 0xFF so that zeroed memory does not pass. Finds every error of up
/// to three bits in the 13 bytes it covers (Hamming distance 4 up to 119 bits: Koopman, "Best CRC polynomials").
pub(crate) fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0xFF, |crc, byte| CRC8_TABLE[usize::from(crc ^ byte)])
}

static CRC8_TABLE: [u8; 256] = crc8_table();

const fn crc8_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x80 == 0 { crc << 1 } else { (crc << 1) ^ 0x07 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

/// The finaliser of splitmix64: spreads neighbouring numbers over all bits.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_header() -> impl Strategy<Value = Header> {
        (any::<u16>(), any::<u16>(), any::<u64>(), any::<bool>()).prop_map(
            |(run, flow, sequence, measured)| Header {
                run,
                flow,
                sequence,
                kind: if measured { Kind::Measured } else { Kind::WarmUp },
            },
        )
    }

    fn encoded(header: &Header, stamps: Stamps, length: usize) -> Vec<u8> {
        let mut payload = vec![0xA5; length];
        Encoder::new(length).encode(&mut payload, header, stamps);
        payload
    }

    const STAMPS: Stamps =
        Stamps { intended_ns: 1_700_000_000_123_456_789, actual_ns: 1_700_000_000_123_459_000 };
    const HEADER: Header =
        Header { run: 0x1234, flow: 7, sequence: 0x0102_0304_0506_0708, kind: Kind::Measured };

    #[test]
    fn layout_is_the_documented_one() {
        let payload = encoded(&HEADER, STAMPS, 40);
        assert_eq!(payload[..13], [0x12, 0x34, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0x81]);
        assert_eq!(payload[18..26], STAMPS.intended_ns.to_be_bytes());
        assert_eq!(payload[26..34], STAMPS.actual_ns.to_be_bytes());
        let mut zeroed = payload.clone();
        zeroed[14..18].fill(0);
        assert_eq!(payload[14..18], crc32fast::hash(&zeroed).to_be_bytes());
    }

    #[test]
    fn crc8_matches_the_published_check_value_of_its_family() {
        // CRC-8/ROHC-like parameters differ in reflection; with init 0 this is CRC-8/SMBUS, check value 0xF4.
        let smbus = b"123456789".iter().fold(0, |crc: u8, byte| CRC8_TABLE[usize::from(crc ^ byte)]);
        assert_eq!(smbus, 0xF4);
    }

    #[test]
    fn filler_differs_between_neighbours_and_is_not_zero() {
        let one = encoded(&HEADER, STAMPS, 100);
        let next = encoded(&Header { sequence: HEADER.sequence + 1, ..HEADER }, STAMPS, 100);
        let other = encoded(&Header { flow: HEADER.flow + 1, ..HEADER }, STAMPS, 100);
        assert!(one[34..].iter().any(|byte| *byte != 0));
        assert_ne!(one[34..], next[34..]);
        assert_ne!(one[34..], other[34..]);
    }

    #[test]
    fn zeroed_memory_is_not_a_header() {
        for length in [18, 34, 100, 1472] {
            assert_eq!(decode(&vec![0; length]), Err(Undecodable::Unreadable));
        }
    }

    #[test]
    fn every_single_bit_flip_is_found() {
        for length in [18, 33, 34, 64, 100, 1472] {
            let payload = encoded(&HEADER, STAMPS, length);
            for bit in 0..length * 8 {
                let mut damaged = payload.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let expected =
                    if bit / 8 <= CRC8 { Undecodable::Unreadable } else { Undecodable::Damaged(HEADER) };
                assert_eq!(decode(&damaged), Err(expected), "bit {bit} of {length} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in any_header(), intended_ns: u64, actual_ns: u64, length in 18_usize..2000) {
            let stamps = Stamps { intended_ns, actual_ns };
            let datagram = decode(&encoded(&header, stamps, length)).unwrap();
            prop_assert_eq!(datagram.header, header);
            prop_assert_eq!(datagram.stamps, (length >= STAMPED_BYTES).then_some(stamps));
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // Random bytes pass CRC-32 once in 4 billion: finding one intact means the check is not made.
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn cut_and_grown_payloads_are_never_intact(length in 19_usize..300, cut in 1_usize..100) {
            let payload = encoded(&HEADER, STAMPS, length);
            prop_assert!(decode(&payload[..length.saturating_sub(cut)]).is_err());
            let mut grown = payload;
            grown.resize(length + cut, 0);
            prop_assert_eq!(decode(&grown), Err(Undecodable::Damaged(HEADER)));
        }

        #[test]
        fn head_of_one_with_tail_of_another_is_damaged(length in 40_usize..300, at in 18_usize..40) {
            let one = encoded(&HEADER, STAMPS, length);
            let mut joined = encoded(&Header { sequence: HEADER.sequence + 1, ..HEADER }, STAMPS, length);
            joined[..at].copy_from_slice(&one[..at]);
            prop_assert_eq!(decode(&joined), Err(Undecodable::Damaged(HEADER)));
        }
    }
}
