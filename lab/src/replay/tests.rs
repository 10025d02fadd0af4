use tempfile::TempDir;

use super::*;

/// An IPv4 frame to a group.
pub(crate) fn frame_to(group: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = crate::frame::tests::ipv4_frame(payload, port);
    frame[30..34].copy_from_slice(&group);
    // Without a UDP checksum, and with a new one of the IPv4 header.
    frame[40..42].fill(0);
    frame[24..26].fill(0);
    let checksum = crate::checksum::finish(crate::checksum::add(0, &frame[14..34]));
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// A pcap file of Ethernet frames, each with its time in µs.
pub(crate) fn pcap(packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    pcap_of(1, packets)
}

/// The same with another link type.
pub(crate) fn pcap_of(link_type: u32, packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    pcap_in(0xA1B2_C3D4, 1_000_000, link_type, packets, u32::to_le_bytes)
}

/// Words in either byte order; the times, in µs, in units of which a second has so many.
fn pcap_in(
    magic: u32,
    units: u64,
    link_type: u32,
    packets: &[(u64, Vec<u8>)],
    word: fn(u32) -> [u8; 4],
) -> Vec<u8> {
    let version = if word(1)[0] == 1 { 4 << 16 | 2 } else { 2 << 16 | 4 };
    let mut file: Vec<u8> = [magic, version, 0, 0, 65_535, link_type].into_iter().flat_map(word).collect();
    for (at_us, frame) in packets {
        let (seconds, fraction) = (at_us / 1_000_000, at_us % 1_000_000 * (units / 1_000_000));
        let length = frame.len() as u32;
        file.extend([seconds as u32, fraction as u32, length, length].into_iter().flat_map(word));
        file.extend(frame);
    }
    file
}

/// A pcapng file with one Ethernet interface, whose unit of time `resolution` names; times as they are.
fn pcapng(resolution: u8, packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let length = (12 + body.len() as u32).to_le_bytes();
        [&kind.to_le_bytes(), &length, body, &length].concat()
    };
    let section = [&0x1A2B_3C4D_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xFF; 8]].concat();
    let interface = [1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, resolution, 0, 0, 0, 0, 0, 0, 0];
    let mut file = [block(0x0A0D_0D0A, &section), block(1, &interface)].concat();
    for (at, frame) in packets {
        let length = (frame.len() as u32).to_le_bytes();
        let head = [[0; 4], ((at >> 32) as u32).to_le_bytes(), (*at as u32).to_le_bytes(), length, length];
        let mut body = [&head.concat()[..], frame].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        file.extend(block(6, &body));
        // A comment of nobody's, to be passed over.
        file.extend(block(0x0BAD, b"else"));
    }
    file
}

/// The bit of `if_tsresol` that says so.
const POWER_OF_TWO: u8 = 0x80;

const BOUNDS: Bounds = Bounds { datagrams: 1_000, span: None, family: Family::Ipv4, mtu: 1_500 };

fn read_with(bounds: &Bounds, file: &[u8]) -> Result<Recording, ReplayError> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.pcap");
    std::fs::write(&path, file).unwrap();
    Recording::read(&path, bounds)
}

fn read(file: &[u8]) -> Recording {
    read_with(&BOUNDS, file).unwrap()
}

/// These payloads, each in a flow.
pub(crate) fn recording_of(datagrams: &[(u8, &[u8])]) -> Recording {
    let packet = |(flow, payload): &(u8, &[u8])| (0, frame_to([239, 1, 1, 1 + flow], 5_004, payload));
    read(&pcap(&datagrams.iter().map(packet).collect::<Vec<_>>()))
}

/// Three datagrams in two flows, 1.5 s and 1 µs apart.
fn three() -> [(u64, Vec<u8>); 3] {
    [
        (7_000_000, frame_to([239, 1, 1, 1], 5_004, b"a")),
        (8_500_000, frame_to([239, 1, 1, 2], 5_004, b"b")),
        (8_500_001, frame_to([239, 1, 1, 1], 5_004, b"a")),
    ]
}

#[test]
fn every_format_says_the_same() {
    let (big, little) = (u32::to_be_bytes, u32::to_le_bytes);
    let (micro, nano) = ((0xA1B2_C3D4, 1_000_000), (0xA1B2_3C4D, 1_000_000_000));
    let mut files = vec![pcapng(6, &three()), pcapng(9, &three().map(|(at, frame)| (at * 1_000, frame)))];
    for (magic, units) in [micro, nano] {
        files.extend([big, little].map(|word| pcap_in(magic, units, 1, &three(), word)));
    }
    // Lengths of checksums behind frames are told beside the link type.
    files.push(pcap_of(0x2400_0001, &three()));
    for file in files {
        let recording = read(&file);
        let times: Vec<_> = recording
            .datagrams()
            .iter()
            .map(|datagram| (datagram.flow, datagram.content, datagram.at_ns))
            .collect();
        assert_eq!(times, [(0, 0, 0), (1, 1, 1_500_000_000), (0, 0, 1_500_001_000)]);
        let flows: Vec<_> = recording.flows().iter().map(ToString::to_string).collect();
        assert_eq!(flows, ["239.1.1.1:5004", "239.1.1.2:5004"]);
        for (datagram, (_, frame)) in recording.datagrams().iter().zip(three()) {
            assert_eq!(recording.frame(datagram), frame);
        }
        assert_eq!((recording.content(b"b"), recording.content(b"c")), (Some(1), None));
        assert_eq!((recording.largest_payload(), recording.mean_pps()), (1, 1));
    }
}

#[test]
fn units_may_be_powers_of_two() {
    let file = pcapng(POWER_OF_TWO + 10, &[(1_024, three()[0].1.clone()), (1_536, three()[1].1.clone())]);
    assert_eq!(read(&file).datagrams()[1].at_ns, 500_000_000);
    let none = read_with(&BOUNDS, &pcapng(POWER_OF_TWO + 90, &three())).unwrap_err();
    assert!(matches!(none.fault, Fault::NoTime(1)), "{none}");
}

#[test]
fn what_is_not_sent_is_counted() {
    let mut packets = three().to_vec();
    packets.insert(1, (7_000_001, vec![0xFF; 60]));
    packets.insert(2, (7_000_002, frame_to([10, 1, 1, 1], 5_004, b"x")));
    let file = pcap(&packets);
    // The last packet is not complete, and before the end of the others nothing is.
    let recording = read(&file[..file.len() - 1]);
    assert_eq!(recording.datagrams().len(), 2);
    assert_eq!(
        recording.to_string(),
        "x.pcap: 2 datagrams to groups, flows 2; not sent: 1 cut short, 1 no UDP, 1 to no group"
    );
}

#[test]
fn bounds_are_kept_and_told() {
    let two = read_with(&Bounds { datagrams: 2, ..BOUNDS }, &pcap(&three())).unwrap();
    assert_eq!(two.datagrams().len(), 2);
    let of_a_second = Bounds { span: Some(Duration::from_millis(1_500)), ..BOUNDS };
    let one = read_with(&of_a_second, &pcap(&three())).unwrap();
    assert_eq!(
        one.to_string(),
        "x.pcap: the first 1 datagrams to groups, flows 1; what follows is beyond traffic.duration or traffic.datagrams"
    );
    assert!(
        !read_with(&Bounds { datagrams: 3, ..BOUNDS }, &pcap(&three()))
            .unwrap()
            .to_string()
            .contains("first")
    );
}

#[test]
fn times_never_go_back_and_a_short_recording_counts_as_a_second() {
    let mut packets = three();
    packets[1].0 = 6_000_000;
    packets[2].0 = 7_000_500;
    let recording = read(&pcap(&packets));
    let times: Vec<_> = recording.datagrams().iter().map(|datagram| datagram.at_ns).collect();
    assert_eq!((times, recording.mean_pps()), (vec![0, 0, 500_000], 3));
    let replay = |pace| Replay { recording: Arc::new(recording.clone()), pace };
    assert_eq!(
        (replay(Pace::Even).due_ns(2, 1_000), replay(Pace::Recorded).due_ns(2, 1_000)),
        (2_000_000, 500_000)
    );
}

#[test]
fn the_last_datagram_of_a_recording_has_its_share_of_the_time() {
    let mean = |last_us: u64, count: u64| {
        let packet = |number| (number * last_us / (count - 1), three()[0].1.clone());
        read(&pcap(&(0..count).map(packet).collect::<Vec<_>>())).mean_pps()
    };
    assert_eq!([mean(0, 4), mean(700_000, 4), mean(900_000, 4)], [4, 4, 3]);
    assert_eq!([mean(2_000_000, 4), mean(999_000, 2), mean(1_500_000, 2)], [1, 1, 0]);
}

#[test]
fn too_many_flows_are_refused() {
    let packet = |flow: u16| (0, frame_to([239, 1, 1, 1], 5_000 + flow, b"x"));
    let most: Vec<_> = (0..1_000).map(packet).collect();
    let bounds = Bounds { datagrams: 2_000, ..BOUNDS };
    assert_eq!(read_with(&bounds, &pcap(&most)).unwrap().flows().len(), 1_000);
    let more: Vec<_> = (0..1_001).map(packet).collect();
    let error = read_with(&bounds, &pcap(&more)).unwrap_err();
    assert!(matches!(error.fault, Fault::Flows), "{error}");
}

#[test]
fn a_file_without_sense_is_refused() {
    let fault = |file: &[u8]| read_with(&BOUNDS, file).unwrap_err().fault;
    assert!(matches!(fault(b""), Fault::NoCapture));
    assert!(matches!(fault(b"\x1F\x8Bcompressed"), Fault::NoCapture));
    assert!(matches!(fault(&pcap(&[])), Fault::Nothing(left_out) if left_out.is_empty()));
    assert!(matches!(fault(&pcap_of(113, &three())), Fault::LinkType { number: 1, link_type: 113 }));
    // A packet longer than anybody records.
    let mut long = pcap(&three());
    long[24 + 8..24 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(fault(&long), Fault::Broken(0)));
    // Of an interface that nobody described.
    let mut strange = pcapng(6, &three());
    // Behind the blocks of the section and of the interface.
    strange[28 + 32 + 8] = 1;
    assert!(matches!(fault(&strange), Fault::Broken(0)));
}
