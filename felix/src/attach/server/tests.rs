use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use manx_cni::protocol::{Attach, Attached, PodRef, host_ifname};
use manx_cni::spec::code;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::acl::question::{Answer, Question};
use crate::health::Metrics;

/// A served socket, and the agent's end of the commands.
struct Server {
    _directory: TempDir,
    path: PathBuf,
    commands: mpsc::Receiver<Command>,
    asked: mpsc::Receiver<Asking>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        Self::start_for(None).await
    }

    async fn start_for(callers: Option<[u32; 2]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let mut listener = listen(&path).await.unwrap();
        listener.callers = callers.unwrap_or(listener.callers);
        let (tx, commands) = mpsc::channel(4);
        let (questions, asked) = mpsc::channel(1);
        let task = tokio::spawn(serve(listener, tx, questions, Metrics::new().unwrap().plugin_seconds));
        Self { _directory: directory, path, commands, asked, task }
    }

    async fn connect(&self) -> Plugin {
        Plugin(UnixStream::connect(&self.path).await.unwrap())
    }

    async fn next(&mut self) -> Command {
        self.commands.recv().await.unwrap()
    }

    /// Answers an Allocate; returns its attempt.
    async fn allocate(&mut self, answer: Result<Attach, Refusal>) -> Attempt {
        let Command::Allocate { attempt, asked, reply } = self.next().await else { panic!("no Allocate") };
        assert_eq!((asked.key, asked.network.as_str()), (key(), "manx"));
        reply.send(answer).unwrap();
        attempt
    }

    async fn expect_abort(&mut self, expected: Attempt) {
        let Command::Abort { attempt, key: asked } = self.next().await else { panic!("no Abort") };
        assert_eq!((attempt, asked), (expected, key()));
    }

    /// After this nothing is in the queue but what connections sent before they ended.
    async fn expect_nothing_more(mut self) {
        let mut plugin = self.connect().await;
        plugin.say(&Request::Status { version: VERSION }).await;
        assert!(matches!(self.next().await, Command::Status { .. }));
    }
}

struct Plugin(UnixStream);

impl Plugin {
    async fn say(&mut self, request: &Request) {
        let mut frame = Vec::new();
        manx_cni::protocol::write_frame(&mut frame, request).unwrap();
        self.0.write_all(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> Reply {
        let length = self.0.read_u32().await.unwrap();
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    async fn hear_error(&mut self) -> (u32, String) {
        match self.hear().await {
            Reply::Error { code, message, .. } => (code, message),
            reply => panic!("{reply:?}"),
        }
    }

    async fn hear_end(&mut self) {
        assert_eq!(self.0.read(&mut [0]).await.unwrap(), 0);
    }
}

fn key() -> AttachmentKey {
    AttachmentKey { container_id: "c1".to_owned(), ifname: "eth0".to_owned() }
}

fn attach() -> Attach {
    let addresses = vec!["10.0.0.1".parse().unwrap()];
    Attach { host_ifname: host_ifname(&key()), addresses, mtu: 1500, routes: Vec::new(), replaces: false }
}

fn add() -> Request {
    Request::Add {
        version: VERSION,
        key: key(),
        pod: PodRef::default(),
        netns: "/run/netns/c1".to_owned(),
        network: "manx".to_owned(),
        ips: Vec::new(),
    }
}

fn ready() -> Request {
    Request::Ready { pod_mac: [2, 0, 0, 0, 0, 1], host_ifindex: 7 }
}

#[tokio::test]
async fn an_add_is_allocated_made_ready_and_programmed() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&add()).await;
    let attempt = server.allocate(Ok(attach())).await;
    assert_eq!(plugin.hear().await, Reply::Attach(attach()));
    plugin.say(&ready()).await;
    let Command::Ready { attempt: same, host_ifindex: 7, reply, .. } = server.next().await else {
        panic!("no Ready")
    };
    assert_eq!(same, attempt);
    reply.send(Ok(())).unwrap();
    assert_eq!(plugin.hear().await, Reply::Programmed);
    plugin.hear_end().await;
    server.expect_nothing_more().await;
}

#[tokio::test]
async fn an_add_whose_plugin_dies_is_aborted_and_a_later_one_has_another_number() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&add()).await;
    let first = server.allocate(Ok(attach())).await;
    drop(plugin);
    server.expect_abort(first).await;

    let mut plugin = server.connect().await;
    plugin.say(&add()).await;
    assert_ne!(server.allocate(Ok(attach())).await, first);
}

#[tokio::test]
async fn a_refused_add_holds_nothing_that_would_be_aborted() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&add()).await;
    server.allocate(Err(Refusal::already_attached(&key()))).await;
    let (code, message) = plugin.hear_error().await;
    assert_eq!(code, Refusal::ALREADY_ATTACHED);
    assert_eq!(message, "interface eth0 of container c1 is already attached");
    plugin.hear_end().await;
    server.expect_nothing_more().await;
}

#[tokio::test]
async fn an_add_that_cannot_be_programmed_is_aborted() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&add()).await;
    let attempt = server.allocate(Ok(attach())).await;
    plugin.hear().await;
    plugin.say(&ready()).await;
    let Command::Ready { reply, .. } = server.next().await else { panic!("no Ready") };
    reply.send(Err(Refusal::try_again("the kernel refused the route", ""))).unwrap();
    assert_eq!(plugin.hear_error().await, (code::TRY_AGAIN, "the kernel refused the route".to_owned()));
    server.expect_abort(attempt).await;
}

#[tokio::test]
async fn anything_but_ready_after_attach_is_aborted() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&add()).await;
    let attempt = server.allocate(Ok(attach())).await;
    plugin.hear().await;
    plugin.say(&add()).await;
    assert_eq!(plugin.hear_error().await.0, code::PROTOCOL);
    server.expect_abort(attempt).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_in_time_is_told_to_undo() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&add()).await;
    let Command::Allocate { attempt, reply, .. } = server.next().await else { panic!("no Allocate") };
    let (code, message) = plugin.hear_error().await;
    assert_eq!((code, message.as_str()), (code::TRY_AGAIN, "the agent did not answer within 15 s"));
    server.expect_abort(attempt).await;
    assert!(reply.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_never_gets_ready_is_aborted() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&add()).await;
    let attempt = server.allocate(Ok(attach())).await;
    plugin.hear().await;
    server.expect_abort(attempt).await;
    plugin.hear_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_says_nothing_is_let_go() {
    let server = Server::start().await;
    let mut plugin = server.connect().await;
    assert_eq!(plugin.hear_error().await.0, code::PROTOCOL);
    plugin.hear_end().await;
}

#[tokio::test]
async fn a_del_is_answered_when_it_is_done() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&Request::Del { version: VERSION, key: key() }).await;
    let Command::Release { key: asked, reply } = server.next().await else { panic!("no Release") };
    assert_eq!(asked, key());
    reply.send(Ok(())).unwrap();
    assert_eq!(plugin.hear().await, Reply::Deleted);
}

#[tokio::test]
async fn a_check_is_answered_with_what_is_held_or_that_nothing_is() {
    let mut server = Server::start().await;
    for held in [Some(Attached { addresses: vec!["10.0.0.1".parse().unwrap()], host_ifindex: 7 }), None] {
        let mut plugin = server.connect().await;
        plugin.say(&Request::Check { version: VERSION, key: key() }).await;
        let Command::Inspect { key: asked, reply } = server.next().await else { panic!("no Inspect") };
        assert_eq!(asked, key());
        reply.send(held.clone()).unwrap();
        match held {
            Some(held) => assert_eq!(plugin.hear().await, Reply::Attached(held)),
            None => assert_eq!(plugin.hear_error().await.0, code::UNKNOWN_CONTAINER),
        }
    }
}

#[tokio::test]
async fn a_gc_is_answered_with_what_is_stale() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&Request::Gc { version: VERSION, network: "manx".to_owned(), valid: vec![key()] }).await;
    let Command::Stale { network, valid, reply } = server.next().await else { panic!("no Stale") };
    assert_eq!((network.as_str(), valid), ("manx", vec![key()]));
    reply.send(vec![key()]).unwrap();
    assert_eq!(plugin.hear().await, Reply::Stale { attachments: vec![key()] });
}

#[tokio::test]
async fn a_status_is_ready_or_the_reason_why_not() {
    let mut server = Server::start().await;
    for answer in [Ok(()), Err(Refusal::not_available(code::LIMITED, "the kernel refuses routes"))] {
        let mut plugin = server.connect().await;
        plugin.say(&Request::NodeReady { version: VERSION }).await;
        let Command::CanAttach { reply } = server.next().await else { panic!("no CanAttach") };
        reply.send(answer.clone()).unwrap();
        assert_eq!(plugin.hear().await, answer.map_or_else(Reply::from, |()| Reply::NodeReady));
    }
}

#[tokio::test]
async fn the_status_is_passed_on_as_it_is() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&Request::Status { version: VERSION }).await;
    let Command::Status { reply } = server.next().await else { panic!("no Status") };
    let report = serde_json::json!({"node": "node1"});
    reply.send(report.clone()).unwrap();
    assert_eq!(plugin.hear().await, Reply::Status { report });
}

#[tokio::test]
async fn an_agent_that_drops_a_command_is_shutting_down() {
    let mut server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&Request::Del { version: VERSION, key: key() }).await;
    drop(server.next().await);
    assert_eq!(plugin.hear_error().await, (code::TRY_AGAIN, "the agent is shutting down".to_owned()));
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_in_words() {
    let server = Server::start().await;
    let mut plugin = server.connect().await;
    plugin.say(&Request::Del { version: VERSION + 1, key: key() }).await;
    let (code, message) = plugin.hear_error().await;
    assert_eq!(
        (code, message.as_str()),
        (code::PROTOCOL, "the caller speaks version 2 of the protocol, the agent 1")
    );
}

#[tokio::test]
async fn a_frame_too_long_or_of_something_else_is_refused() {
    let server = Server::start().await;
    for bytes in [&(MAX_FRAME + 1).to_be_bytes()[..], &[0, 0, 0, 2, b'{', b'}']] {
        let mut plugin = server.connect().await;
        plugin.0.write_all(bytes).await.unwrap();
        assert_eq!(plugin.hear_error().await.0, code::PROTOCOL);
        plugin.hear_end().await;
    }
}

#[tokio::test]
async fn a_caller_who_is_neither_root_nor_ourselves_is_refused() {
    let server = Server::start_for(Some([u32::MAX - 1; 2])).await;
    let mut plugin = server.connect().await;
    let (code, message) = plugin.hear_error().await;
    assert_eq!(code, Refusal::FORBIDDEN);
    assert!(message.ends_with("may not speak to the agent"), "{message}");
}

#[tokio::test]
async fn connections_beyond_the_bound_wait() {
    let mut server = Server::start().await;
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS {
        crowd.push(server.connect().await);
    }
    let mut late = server.connect().await;
    late.say(&Request::Status { version: VERSION }).await;
    // The last of the crowd is heard although the late one spoke first.
    let mut last = crowd.pop().unwrap();
    last.say(&Request::Del { version: VERSION, key: key() }).await;
    let Command::Release { reply, .. } = server.next().await else { panic!("no Release") };
    reply.send(Ok(())).unwrap();
    assert_eq!(last.hear().await, Reply::Deleted);
    // Its place is free.
    assert!(matches!(server.next().await, Command::Status { .. }));
}

#[tokio::test]
async fn serving_ends_with_the_agent() {
    let Server { commands, task, .. } = Server::start().await;
    drop(commands);
    task.await.unwrap();
}

#[tokio::test]
async fn a_socket_left_by_a_killed_agent_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/agent.sock");
    drop(listen(&path).await.unwrap());
    let listener = listen(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = listen(&path).await.unwrap_err();
    assert!(matches!(error, ListenError::InUse(_)), "{error}");
    drop(listener);
}

#[tokio::test]
async fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    fs::write(&path, "precious").unwrap();
    let error = listen(&path).await.unwrap_err();
    assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(!path.with_extension("new").exists());
}

#[tokio::test]
async fn a_question_is_answered_part_by_part_until_there_is_no_more() {
    let mut server = Server::start().await;
    let mut caller = server.connect().await;
    let question = serde_json::to_value(Question::Denied { follow: true }).unwrap();
    caller.say(&Request::Policy { version: VERSION, question }).await;
    let (question, answers) = server.asked.recv().await.unwrap();
    assert_eq!(question, Question::Denied { follow: true });
    for packets in [1, 2] {
        answers.send(Answer::Missed { packets }).await.unwrap();
        let Reply::Policy { answer } = caller.hear().await else { panic!("no answer") };
        assert_eq!(serde_json::from_value::<Answer>(answer).unwrap(), Answer::Missed { packets });
    }
    drop(answers);
    caller.hear_end().await;

    let mut caller = server.connect().await;
    caller.say(&Request::Policy { version: VERSION, question: "what?".into() }).await;
    assert!(matches!(caller.hear().await, Reply::Error { .. }));

    // Who has gone is asked no more.
    let mut caller = server.connect().await;
    let question = serde_json::to_value(Question::Counters).unwrap();
    caller.say(&Request::Policy { version: VERSION, question }).await;
    let (_, answers) = server.asked.recv().await.unwrap();
    drop(caller);
    answers.closed().await;
}
