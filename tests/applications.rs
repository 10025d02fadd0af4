//! Programs that people relay for, end to end: what one of them sends, the other one has as it was. A program that is not
//! installed is told and left out; on Debian they come with the packages ffmpeg, socat and iperf.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/host.rs"]
mod host;
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path as FilePath;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use host::ip;
use lab::topology::{Family, Port};
use support::{DEADLINE, GROUP, Network, OUT_GROUP, OUT_PORT, PORT, Path, Relay, network, rule, wait_until};
use tempfile::TempDir;

/// A relay between a host that has an address and sends, and one that receives.
struct Bench {
    relay: Relay,
    network: Network,
    folder: TempDir,
}

/// A program that runs, ended when this goes.
struct Program {
    child: Child,
    name: String,
}

impl Program {
    /// Waits until it ends by itself, with success.
    fn ends(mut self) {
        let deadline = Instant::now() + DEADLINE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status}", self.name);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether all of these are installed; else says which is not.
fn are_installed(programs: &[&str]) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&paths).any(|folder| folder.join(name).is_file());
    let missing: Vec<_> = programs.iter().filter(|name| !is_there(name)).collect();
    if !missing.is_empty() {
        eprintln!("left out: not installed are {missing:?}");
    }
    missing.is_empty()
}

impl Bench {
    /// None where a program is missing.
    fn new(path: Path, programs: &[&str]) -> Option<Self> {
        if !are_installed(programs) {
            return None;
        }
        let network = network(Family::Ipv4, 1);
        let topology = &network.topology;
        let (generator, address) = (&topology.generator, topology.generator.address());
        let route = format!(
            "address add {address}/24 dev {device}\nroute add 224.0.0.0/4 dev {device}",
            device = generator.device()
        );
        generator.namespace().run(|| ip(&route)).unwrap();
        let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
        Some(Self { relay, network, folder: tempfile::tempdir().unwrap() })
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn sender(&self) -> &Port {
        &self.network.topology.generator
    }

    fn receiver(&self) -> &Port {
        &self.network.topology.sinks[0]
    }

    /// Starts a program on the host of `port`; what it prints goes to the file `output`.
    fn start(&self, port: &Port, line: &str, output: &str, input: Stdio) -> Program {
        let output = File::create(self.file(output)).unwrap();
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).current_dir(self.folder.path()).stdin(input).stdout(output);
        let child = port.namespace().run(|| command.spawn()).unwrap().unwrap();
        Program { child, name: line.to_owned() }
    }

    /// Starts a program that receives, and waits until its host is a member of the group.
    fn receive(&self, line: &str, output: &str) -> Program {
        let program = self.start(self.receiver(), line, output, Stdio::null());
        // As the kernel prints an address.
        let group = format!("{:08X}", u32::from_ne_bytes(OUT_GROUP.octets()));
        let is_member = || {
            let groups = || fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
            self.receiver().namespace().run(groups).unwrap().contains(&group)
        };
        wait_until("the receiver joins", is_member);
        program
    }

    /// Ends the relay: of all that has come nothing was lost.
    fn end(self) {
        let stats = self.relay.stop();
        let [output] = &stats.rules[0].outputs[..] else { panic!("one output") };
        assert!(stats.relayed > 0 && output.dropped.is_empty(), "{stats:?}");
        assert_eq!((stats.relayed, stats.dropped.len()), (stats.matched, 0), "{stats:?}");
    }
}

fn v4(port: &Port) -> std::net::Ipv4Addr {
    let IpAddr::V4(address) = port.address() else { panic!("an IPv4 port") };
    address
}

/// Runs a program that needs no network.
fn run(folder: &FilePath, line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).current_dir(folder).status().unwrap();
    assert!(status.success(), "{line}: {status}");
}

/// Of each frame of a video as `-f framemd5` has it, the checksum of its pixels.
fn checksums(file: &FilePath) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let frames = text.lines().filter(|line| !line.starts_with('#'));
    frames.map(|frame| frame.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

/// Sends a video in `format` and has it received, up to a frame behind which there is enough for a decoder that looks ahead.
fn video(path: Path, format: &str, to: &str, from: &str) {
    const FRAMES: usize = 70;
    let Some(bench) = Bench::new(path, &["ffmpeg"]) else { return };
    let folder = bench.folder.path();
    run(
        folder,
        "ffmpeg -v error -f lavfi -i testsrc=size=320x240:rate=25:duration=8 -c:v mpeg2video -b:v 2M -g 12 -f mpegts video.ts",
    );
    run(folder, &format!("ffmpeg -v error -i video.ts -frames:v {FRAMES} -f framemd5 sent.md5"));
    // A video as it is (RFC 2250), or a transport stream.
    for (name, payload_type) in [("video.sdp", 32), ("stream.sdp", 33)] {
        let head = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=video\nt=0 0\n";
        let sdp = format!("{head}c=IN IP4 {OUT_GROUP}/64\nm=video {OUT_PORT} RTP/AVP {payload_type}\n");
        fs::write(bench.file(name), sdp).unwrap();
    }
    // Whatever is damaged or missing is an error.
    let player = bench.receive(
        &format!(
            "ffmpeg -v error -xerror -err_detect explode -probesize 32768 -protocol_whitelist file,udp,rtp -i {from} -map 0:v \
             -frames:v {FRAMES} -f framemd5 received.md5"
        ),
        "player.txt",
    );
    let to = to.replace("{local}", &v4(bench.sender()).to_string());
    let line = format!("ffmpeg -v error -re -i video.ts -c copy -f {format} {to}");
    let source = bench.start(bench.sender(), &line, "source.txt", Stdio::null());
    player.ends();
    drop(source);
    let (sent, received) = (checksums(&bench.file("sent.md5")), checksums(&bench.file("received.md5")));
    assert_eq!((sent.len(), received.len()), (FRAMES, FRAMES));
    assert!(sent == received, "the frames are those that were sent");
    bench.end();
}

fn a_video_in_a_transport_stream_arrives_frame_by_frame(path: Path) {
    let to = format!("udp://{GROUP}:{PORT}?localaddr={{local}}&pkt_size=1316&ttl=2");
    video(path, "mpegts", &to, &format!("udp://{OUT_GROUP}:{OUT_PORT}"));
}

mod a_video_in_a_transport_stream {
    use super::{Path, a_video_in_a_transport_stream_arrives_frame_by_frame as test};

    #[test]
    #[ignore = "needs root: builds network namespaces"]
    fn by_mmap_v3() {
        test(Path::MmapV3);
    }

    #[test]
    #[ignore = "needs root: builds network namespaces"]
    fn by_mmap_v2() {
        test(Path::MmapV2);
    }

    #[test]
    #[ignore = "needs root: builds network namespaces"]
    fn by_recv() {
        test(Path::Recv);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_video_by_rtp_arrives_frame_by_frame() {
    let to = format!("rtp://{GROUP}:{PORT}?localaddr={{local}}&pkt_size=1316&ttl=2");
    video(Path::MmapV3, "rtp", &to, "video.sdp");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_transport_stream_by_rtp_arrives_frame_by_frame() {
    let to = format!("rtp://{GROUP}:{PORT}?localaddr={{local}}&pkt_size=1328&ttl=2");
    video(Path::MmapV3, "rtp_mpegts", &to, "stream.sdp");
}

over_every_path!(bytes_by_socat_arrive_as_they_were);

fn bytes_by_socat_arrive_as_they_were(path: Path) {
    let Some(bench) = Bench::new(path, &["socat"]) else { return };
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i * 7 / 5 + i / 256) as u8).collect();
    let (sender, receiver) = (v4(bench.sender()), v4(bench.receiver()));
    let line = format!(
        "socat -u UDP4-RECV:{OUT_PORT},ip-add-membership={OUT_GROUP}:{receiver},rcvbuf=2000000 STDOUT"
    );
    let sink = bench.receive(&line, "received");
    let line = format!(
        "socat -u -b 1400 STDIN UDP4-DATAGRAM:{GROUP}:{PORT},ip-multicast-if={sender},ip-multicast-ttl=2"
    );
    let mut source = bench.start(bench.sender(), &line, "source.txt", Stdio::piped());
    source.child.stdin.take().unwrap().write_all(&bytes).unwrap();
    source.ends();
    let received = || fs::read(bench.file("received")).unwrap();
    wait_until("all arrives", || received().len() >= bytes.len());
    drop(sink);
    assert!(received() == bytes, "in order");
    bench.end();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn iperf_counts_every_datagram() {
    let Some(bench) = Bench::new(Path::MmapV3, &["iperf"]) else { return };
    let sink = bench.receive(&format!("iperf -s -u -B {OUT_GROUP} -p {OUT_PORT} -i 1 -y C"), "sink.csv");
    let sender = v4(bench.sender());
    // Slow enough for its receive buffer, which the machine limits, to last for a second in which it gets no CPU time.
    let line = format!("iperf -c {GROUP} -B {sender} -u -p {PORT} -T 2 -b 1M -l 1316 -t 2");
    bench.start(bench.sender(), &line, "source.txt", Stdio::null()).ends();
    // The last line is of the whole time: of so many datagrams so many lost, and so many not in order.
    let report = || fs::read_to_string(bench.file("sink.csv")).unwrap();
    wait_until("iperf reports", || report().lines().count() > 2);
    let fields: Vec<_> = report().lines().last().unwrap().split(',').map(str::to_owned).collect();
    assert_eq!((fields[10].as_str(), fields[13].as_str()), ("0", "0"), "{fields:?}");
    assert!(fields[11].parse::<u32>().unwrap() > 150, "{fields:?}");
    drop(sink);
    bench.end();
}
