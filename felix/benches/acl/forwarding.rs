//! What packets cost: to open a connection, to speak over one, to send as much as goes. Beside it the linear shape: one
//! chain of iptables that jumps to a chain a policy, as Calico's classic mode has, where the last policy allows.
//!
//! The client has one CPU and the server the next. All shapes come in turn, in every other round backwards, and what counts
//! is each one's share of what the first of its round took: the median of the rounds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use manx_bgp::types::Family;
use manx_felix::acl::driver::{Connections, Driver};
use manx_felix::acl::ruleset::{Members, Ruleset, Set};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::lab::{Host, Lab};
use crate::world::{run, step, wait};
use crate::{POLICIES, measure, ruleset};

/// Rounds of all shapes in turn: what else the machine does is then in all of them.
const ROUNDS: usize = 7;

/// Of one stream.
const STREAM: Duration = Duration::from_secs(1);

/// First octet of a connection that only sends.
const SINK: u8 = 1;

/// Answers octet by octet, or swallows.
fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (mut octet, mut buffer) = ([0], vec![0; 256 * 1024]);
    while stream.read(&mut octet).is_ok_and(|length| length > 0) {
        if octet == [SINK] {
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
            return;
        }
        if stream.write_all(&octet).is_err() {
            return;
        }
    }
}

fn connect(target: IpAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    // No TIME_WAIT: ports are soon used up otherwise.
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    socket.connect(&SocketAddr::new(target, 80).into()).unwrap();
    socket.into()
}

/// The calling thread, and those it starts, on this CPU alone.
fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).unwrap();
    // On a machine of one there is nothing to choose.
    let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
}

/// Milliseconds to connect and to be answered, and Gbit/s of one stream.
fn measure_all(client: &Host, target: IpAddr, what: &str, round: usize) -> [f64; 3] {
    let what = format!("{what}, round {round}");
    client.run(move |_| {
        // As many as take some tenths of a second, where each takes milliseconds.
        let start = Instant::now();
        (0..20).for_each(|_| drop(connect(target)));
        let rounds = (4.0 / start.elapsed().as_secs_f64()).clamp(40.0, 1000.0) as usize;
        let connects = measure(&format!("connect, {what}"), rounds, |_| drop(connect(target)));
        let (mut stream, mut octet) = (connect(target), [7]);
        let request = measure(&format!("request, {what}"), 3000, |_| {
            stream.write_all(&octet).unwrap();
            stream.read_exact(&mut octet).unwrap();
        });
        let (mut stream, buffer) = (connect(target), vec![0; 256 * 1024]);
        stream.write_all(&[SINK]).unwrap();
        let (start, mut sent) = (Instant::now(), 0);
        while start.elapsed() < STREAM {
            stream.write_all(&buffer).unwrap();
            sent += buffer.len();
        }
        let rate = 8.0 * sent as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("{:<64} {rate:>10.2} Gbit/s", format!("stream, {what}"));
        [connects, request, rate]
    })
}

/// The linear shape, in the calling thread's namespace.
fn linear(policies: usize, client: IpAddr, target: IpAddr) {
    let mut text = "*filter\n:FORWARD ACCEPT [0:0]\n:pod - [0:0]\n".to_owned();
    (0..policies).for_each(|number| writeln!(text, ":policy-{number} - [0:0]").unwrap());
    text += "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    writeln!(text, "-A FORWARD -d {target}/32 -j pod").unwrap();
    for number in 0..policies {
        writeln!(text, "-A pod -j policy-{number}").unwrap();
        let peer = if number + 1 == policies { client } else { crate::address(0x10_0000 + number) };
        writeln!(text, "-A policy-{number} -s {peer}/32 -p tcp --dport 80 -j ACCEPT").unwrap();
        writeln!(text, "-A policy-{number} -s {peer}/32 -p udp --dport 1000:2000 -j ACCEPT").unwrap();
    }
    text += "-A pod -j DROP\nCOMMIT\n";
    let mut child = Command::new("iptables-legacy-restore").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

pub fn forwarding() {
    let lab = Lab::new(2);
    let target = lab.pods[1].address(Family::Ipv4);
    let [client, server] = [&lab.pods[0], &lab.pods[1]];
    client.run(|_| pin(0));
    server.run(move |_| {
        pin(1);
        let listener = TcpListener::bind(SocketAddr::new(target, 80)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || serve(stream));
            }
        });
    });
    // The sender is of the last policy's set.
    let of_last = |mut ruleset: Ruleset| {
        let id = *ruleset.sets.keys().next_back().unwrap();
        let members = Members::Addresses([client.address(Family::Ipv4)].into());
        ruleset.sets.insert(id, Set { of: "the client".into(), members });
        ruleset
    };
    let few = "10 policies, all of this pod";
    let rulesets = [
        ("no policy", ruleset(1, 2, |_| vec![])),
        (few, of_last(ruleset(10, 2, |_| (0..10).collect()))),
        (
            "10,000 policies, 10 of this pod",
            of_last(ruleset(POLICIES, 2, |_| (POLICIES - 10..POLICIES).collect())),
        ),
        ("10,000 policies, all of this pod", of_last(ruleset(POLICIES, 2, |_| (0..POLICIES).collect()))),
    ];
    let driver = Driver::start(Connections::Keep).unwrap();
    driver.sweep();
    let mut now = Ruleset::default();
    let mut measured: BTreeMap<String, Vec<[f64; 3]>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut shapes: Vec<_> = rulesets.iter().collect();
        if round % 2 == 1 {
            shapes.reverse();
        }
        for (what, next) in shapes {
            wait(driver.update(step(&now, next))).unwrap();
            now = next.clone();
            let took = measure_all(client, target, what, round);
            measured.entry((*what).to_owned()).or_default().push(took);
        }
        // Ours lets all through meanwhile.
        let open = &rulesets[0].1;
        wait(driver.update(step(&now, open))).unwrap();
        now = open.clone();
        for policies in [10, POLICIES] {
            linear(policies, client.address(Family::Ipv4), target);
            let what = format!("linear iptables, {policies} policies of this pod");
            let took = measure_all(client, target, &what, round);
            measured.entry(what).or_default().push(took);
            run("iptables-legacy", &["-F"]);
            run("iptables-legacy", &["-X"]);
        }
    }
    let base = measured[few].clone();
    for (what, took) in &measured {
        let shares = [0, 1, 2].map(|kind| {
            let mut shares: Vec<f64> = took.iter().zip(&base).map(|(it, few)| it[kind] / few[kind]).collect();
            shares.sort_by(f64::total_cmp);
            shares[shares.len() / 2]
        });
        let [connect, request, stream] = shares;
        println!("{what}, beside {few}: connect {connect:.2}, request {request:.2}, stream {stream:.2}");
    }
}
