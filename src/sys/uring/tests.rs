use std::io::IoSlice;
use std::net::UdpSocket;
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::time::Instant;

use super::*;

fn pair() -> (UdpSocket, UdpSocket) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (sender, receiver)
}

fn datagram<'a>(socket: &'a impl AsFd, payload: &'a [IoSlice<'a>; 1]) -> Send<'a> {
    Send::new(socket.as_fd(), payload, None)
}

fn next(ring: &mut Uring) -> Completion {
    ring.wait(Wait::First).unwrap();
    ring.next_completion().unwrap()
}

#[test]
fn user_data_survives_packing() {
    for token in [Token::Order, Token::Receive(65_535), Token::Wake, Token::Send(255), Token::Cancel] {
        for buffer in [None, Some(0), Some(32_767)] {
            for form in [Form::Plain, Form::Multishot, Form::Once] {
                let data = UserData { token, buffer, form };
                assert_eq!(UserData::unpack(data.pack()), data);
            }
        }
    }
}

#[test]
fn a_failed_batch_is_never_submitted_later() {
    let (sender, receiver) = pair();
    let mut ring = Uring::new(1_024).unwrap();
    let payload = b"gone".to_vec();
    let slice = [IoSlice::new(&payload)];
    let sends = [datagram(&sender, &slice); 2];
    // A batch that ends before its time, as one that the kernel refuses to take would.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ring.send_all(&sends, |_, _| panic!("before its time"))
    }));
    assert!(ended.is_err());
    drop(payload);
    assert!(ring.wait(Wait::First).is_err() && ring.wait(Wait::Not).is_err());
    assert!(ring.poll(receiver.as_fd(), false, Token::Order).is_err());
    assert!(ring.send_all(&[], |_, _| ()).is_err());
}

#[test]
fn sends_arrive_in_order_and_every_result_is_told() {
    let (sender, receiver) = pair();
    let mut ring = Uring::new(1_024).unwrap();
    let payloads: Vec<_> = (0..SEND_BATCH).map(|i| vec![i as u8; i % 9 + 1]).collect();
    let slices: Vec<_> = payloads.iter().map(|payload| [IoSlice::new(payload)]).collect();
    let sends: Vec<_> = slices.iter().map(|slice| datagram(&sender, slice)).collect();
    let mut results = vec![None; SEND_BATCH];
    ring.send_all(&sends, |place, result| results[place] = Some(result)).unwrap();
    let mut buffer = [0; 100];
    for (payload, result) in payloads.iter().zip(results) {
        assert_eq!(result, Some(Ok(payload.len())));
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], payload);
    }
}

#[test]
fn a_send_that_fails_names_its_errno_and_the_others_go_on() {
    let (sender, receiver) = pair();
    let mut ring = Uring::new(1_024).unwrap();
    let large = vec![0; 65_535];
    let slices = [[IoSlice::new(&large)], [IoSlice::new(b"small")]];
    let sends = slices.each_ref().map(|slice| datagram(&sender, slice));
    let mut results = Vec::new();
    ring.send_all(&sends, |place, result| results.push((place, result))).unwrap();
    results.sort_unstable();
    assert_eq!(results, [(0, Err(libc::EMSGSIZE)), (1, Ok(5))]);
    assert_eq!(receiver.recv(&mut [0; 10]).unwrap(), 5);
}

#[test]
fn a_train_arrives_as_its_datagrams() {
    let (sender, receiver) = pair();
    let mut ring = Uring::new(1_024).unwrap();
    let payloads: Vec<_> = (0..5).map(|i| vec![i; if i == 4 { 30 } else { 100 }]).collect();
    let slices: Vec<_> = payloads.iter().map(|payload| IoSlice::new(payload)).collect();
    let train = Send::new(sender.as_fd(), &slices, NonZeroU16::new(100));
    let single = [IoSlice::new(b"after")];
    let mut results = Vec::new();
    for _ in 0..2 {
        let sends = [train, datagram(&sender, &single)];
        ring.send_all(&sends, |place, result| results.push((place, result))).unwrap();
    }
    assert_eq!(results, [(0, Ok(430)), (1, Ok(5)), (0, Ok(430)), (1, Ok(5))]);
    let mut buffer = [0; 500];
    for _ in 0..2 {
        for payload in payloads.iter().map(Vec::as_slice).chain([&b"after"[..]]) {
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], payload);
        }
    }
}

#[test]
fn a_train_that_cannot_leave_does_not_leave_in_part() {
    let (sender, receiver) = pair();
    let mut ring = Uring::new(1_024).unwrap();
    let payload = vec![1; 60_000];
    let slices = [IoSlice::new(&payload); 2];
    let single = [IoSlice::new(b"after")];
    let train = Send::new(sender.as_fd(), &slices, NonZeroU16::new(60_000));
    let mut results = Vec::new();
    ring.send_all(&[train, datagram(&sender, &single)], |place, result| results.push((place, result)))
        .unwrap();
    results.sort_unstable();
    assert_eq!(results, [(0, Err(libc::EMSGSIZE)), (1, Ok(5))]);
    assert_eq!(receiver.recv(&mut [0; 10]).unwrap(), 5);
}

#[test]
fn a_full_socket_buffer_is_an_answer_not_a_wait() {
    let (sender, _receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let mut ring = Uring::new(1_024).unwrap();
    let payload = vec![0; 4_096];
    let slice = [IoSlice::new(&payload)];
    let sends = vec![datagram(&sender, &slice); SEND_BATCH];
    let mut refused = 0;
    ring.send_all(&sends, |_, result| refused += usize::from(result == Err(libc::EAGAIN))).unwrap();
    assert!(refused > 0 && refused < SEND_BATCH, "{refused} refused");
}

#[test]
fn every_kind_of_receive_fills_buffers_and_tells_the_whole_length() {
    type Receive = fn(&mut Uring, &UdpSocket);
    let multishot: [Receive; 2] = [
        |ring, socket| ring.receive_multishot(socket.as_fd(), 7).unwrap(),
        |ring, socket| ring.receive_tagged_multishot(socket.as_fd(), 7).unwrap(),
    ];
    let once: Receive = |ring, socket| assert!(ring.receive_once(socket.as_fd(), 7).unwrap());
    for (multishot, receive) in [(true, multishot[0]), (true, multishot[1]), (false, once)] {
        let (sender, receiver) = pair();
        let mut ring = Uring::new(1_024).unwrap();
        ring.set_buffers(4, 64, multishot).unwrap();
        assert!(ring.set_buffers(4, 64, multishot).is_err(), "a ring has one set of buffers");
        if multishot {
            receive(&mut ring, &receiver);
        }
        // More than there are buffers, so each is used again.
        for payload in [&b"first"[..], &[9; 1_000], b"3", b"4", b"5", b"6"] {
            if !multishot {
                receive(&mut ring, &receiver);
            }
            sender.send(payload).unwrap();
            let completion = next(&mut ring);
            assert_eq!(completion.token, Token::Receive(7));
            assert_eq!((completion.result, completion.more), (Ok(payload.len()), multishot));
            let filled = completion.filled.unwrap();
            let len = filled.bytes().len();
            assert!(len == payload.len() || (64..300).contains(&len), "{len}");
            assert_eq!((filled.bytes(), filled.tag()), (&payload[..len], None));
            ring.give_back(filled);
        }
    }
}

#[test]
fn a_receive_needs_a_free_buffer() {
    let (_sender, receiver) = pair();
    let mut ring = Uring::new(1_024).unwrap();
    assert!(!ring.receive_once(receiver.as_fd(), 0).unwrap(), "no buffers yet");
    ring.set_buffers(1, 64, false).unwrap();
    assert!(ring.receive_once(receiver.as_fd(), 0).unwrap());
    assert!(!ring.receive_once(receiver.as_fd(), 0).unwrap(), "it is the kernel's");
}

#[test]
fn receives_that_complete_during_sends_are_kept() {
    let (sender, receiver) = pair();
    let mut ring = Uring::new(1_024).unwrap();
    ring.set_buffers(4, 64, true).unwrap();
    ring.receive_multishot(receiver.as_fd(), 0).unwrap();
    ring.wait(Wait::Not).unwrap();
    let slice = [IoSlice::new(b"x")];
    let sends = [datagram(&sender, &slice); 3];
    ring.send_all(&sends, |_, result| assert_eq!(result, Ok(1))).unwrap();
    let mut received = 0;
    while received < 3 {
        ring.wait(Wait::First).unwrap();
        while let Some(completion) = ring.next_completion() {
            received += usize::from(completion.token == Token::Receive(0));
        }
    }
}

#[test]
fn a_closed_pipe_ends_a_wait() {
    let (reader, writer) = io::pipe().unwrap();
    let mut ring = Uring::new(1_024).unwrap();
    ring.poll(reader.as_fd(), false, Token::Order).unwrap();
    drop(writer);
    assert_eq!(next(&mut ring).token, Token::Order);
}

#[test]
fn a_coalesced_wait_ends_with_its_count_or_its_time() {
    let (sender, receiver) = pair();
    let mut ring = Uring::new(1_024).unwrap();
    ring.set_buffers(16, 64, true).unwrap();
    ring.receive_multishot(receiver.as_fd(), 0).unwrap();
    let within = |time| Wait::Coalesced { count: 3, time };
    ring.wait(within(Duration::from_millis(1))).unwrap();
    assert!(ring.next_completion().is_none(), "nothing came, and it ended");
    sender.send(b"1").unwrap();
    ring.wait(within(Duration::from_millis(1))).unwrap();
    assert_eq!(ring.next_completion().unwrap().result, Ok(1), "what came is there all the same");
    for _ in 0..3 {
        sender.send(b"many").unwrap();
    }
    let (start, deadline) = (Instant::now(), Duration::from_secs(30));
    ring.wait(within(deadline)).unwrap();
    assert!(start.elapsed() < deadline, "it did not end with its count");
    assert_eq!(std::iter::from_fn(|| ring.next_completion()).count(), 3);
}

#[test]
fn a_restricted_ring_does_all_that_a_worker_asks_of_it() {
    let (sender, receiver) = pair();
    let mut ring = Uring::disabled(1_024).unwrap();
    assert!(ring.has_multishot_receive());
    ring.set_buffers(4, 64, true).unwrap();
    ring.restrict().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    ring.poll(reader.as_fd(), false, Token::Order).unwrap();
    ring.receive_multishot(receiver.as_fd(), 0).unwrap();
    ring.wait(Wait::Not).unwrap();
    let payloads = [IoSlice::new(b"12"), IoSlice::new(b"3")];
    let train = Send::new(sender.as_fd(), &payloads, NonZeroU16::new(2));
    let single = [IoSlice::new(b"4")];
    ring.send_all(&[train, datagram(&sender, &single)], |_, result| _ = result.unwrap()).unwrap();
    drop(writer);
    let mut received = Vec::new();
    let mut called = false;
    while received.len() < 3 || !called {
        ring.wait(Wait::First).unwrap();
        while let Some(Completion { token, result, filled, .. }) = ring.next_completion() {
            result.unwrap();
            called |= token == Token::Order;
            received.extend(filled.map(|filled| filled.bytes().to_vec()));
        }
    }
    assert_eq!(received, [&b"12"[..], b"3", b"4"]);
    ring.cancel(receiver.as_fd(), Token::Receive(0)).unwrap();
    assert_eq!(ring.next_completion().map(|ended| ended.result), Some(Err(libc::ECANCELED)));
    ring.receive_tagged_multishot(receiver.as_fd(), 0).unwrap();
    sender.send(b"5").unwrap();
    assert_eq!(next(&mut ring).filled.unwrap().bytes(), b"5");
}

#[test]
fn a_restricted_ring_refuses_everything_else() {
    let (_sender, receiver) = pair();
    let mut ring = Uring::disabled(1_024).unwrap();
    assert_eq!(ring.wait(Wait::Not).unwrap_err().raw_os_error(), Some(libc::EBADFD), "it is not enabled yet");
    let mut ring = Uring::disabled(1_024).unwrap();
    ring.restrict().unwrap();
    let path = c"/dev/null";
    let fd = types::Fd(receiver.as_raw_fd());
    for entry in [
        opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build(),
        opcode::Socket::new(libc::AF_INET, libc::SOCK_DGRAM, 0).build(),
        opcode::Close::new(fd).build(),
        opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).build(),
        // Asked to wait in a thread of the kernel's, which is more than a relay needs.
        opcode::Nop::new().build().flags(squeue::Flags::ASYNC),
    ] {
        // SAFETY: the path and no other memory of the process is read, and it lives as long as the program.
        unsafe { ring.push(entry, Token::Wake, None) }.unwrap();
        assert_eq!(next(&mut ring).result, Err(libc::EACCES));
    }
    assert!(!ring.has_multishot_receive(), "nor can anything be asked");
    assert!(ring.set_buffers(4, 64, true).is_err(), "or registered");
    assert!(ring.restrict().is_err() && Uring::new(1_024).unwrap().restrict().is_err(), "it is too late");
}

#[test]
fn a_send_may_bring_its_destination() {
    use std::io::IoSlice;
    for (any, receivers) in [("0.0.0.0:0", ["127.0.0.1:0"; 2]), ("[::]:0", ["[::1]:0"; 2])] {
        let sender = UdpSocket::bind(any).unwrap();
        let receivers = receivers.map(|address| UdpSocket::bind(address).unwrap());
        let to = receivers.each_ref().map(|receiver| Some(receiver.local_addr().unwrap()));
        let mut ring = Uring::new(8).unwrap();
        let slices = [b"aa", b"bb", b"cc", b"dd"].map(|payload| [IoSlice::new(payload)]);
        let train = [b"ee", b"ff"].map(|payload| IoSlice::new(payload));
        let mut sends: Vec<_> = slices
            .iter()
            .zip(to.iter().cycle())
            .map(|(slice, to)| Send { destination: *to, ..Send::new(sender.as_fd(), slice, None) })
            .collect();
        sends.push(Send { destination: to[1], ..Send::new(sender.as_fd(), &train, NonZeroU16::new(2)) });
        ring.send_all(&sends, |_, result| _ = result.unwrap()).unwrap();
        let receive = |receiver: &UdpSocket| {
            let mut buffer = [0; 10];
            receiver.recv(&mut buffer).map(|len| buffer[..len].to_vec()).unwrap()
        };
        assert_eq!([(); 2].map(|()| receive(&receivers[0])), [b"aa", b"cc"]);
        assert_eq!([(); 4].map(|()| receive(&receivers[1])), [b"bb", b"dd", b"ee", b"ff"]);
        let nowhere = [IoSlice::new(b"x")];
        let mut result = None;
        ring.send_all(&[Send::new(sender.as_fd(), &nowhere, None)], |_, told| result = Some(told)).unwrap();
        assert_eq!(
            result,
            Some(Err(libc::EDESTADDRREQ)),
            "what a send leaves behind is not taken for the next one"
        );
    }
}
