use std::process::Command as StdCommand;

use super::*;

#[test]
fn the_arguments_are_those_of_1_30_and_later() {
    let listen = "[::]:6443".parse().expect("an address");
    let arguments = apiserver_arguments(Path::new("/run/x"), "http://127.0.0.1:2379", listen);
    let has =
        |argument: &str| assert!(arguments.iter().any(|a| a == argument), "{argument} in {arguments:?}");
    has("--secure-port=6443");
    has("--advertise-address=::1");
    has("--service-cluster-ip-range=fd00:10:96::/112,10.96.0.0/16");
    has("--service-account-signing-key-file=/run/x/sa.key");
    has("--client-ca-file=/run/x/ca.crt");
    assert!(!arguments.iter().any(|argument| argument.contains("insecure")), "{arguments:?}");
}

#[test]
fn certificates_chain_and_name_what_they_must() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificates = Certificates::make("192.0.2.7".parse().expect("an address")).expect("certificates");
    for (name, content) in certificates.files() {
        write_private(&folder.path().join(name), content).expect("written");
    }
    let openssl = |arguments: &[&str]| {
        let output = StdCommand::new("openssl").args(arguments).current_dir(folder.path()).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    openssl(&[
        "verify",
        "-CAfile",
        AUTHORITY_FILE,
        "-purpose",
        "sslserver",
        "-verify_ip",
        "192.0.2.7",
        "apiserver.crt",
    ]);
    openssl(&["verify", "-CAfile", AUTHORITY_FILE, "-purpose", "sslclient", "admin.crt"]);
    let subject = openssl(&["x509", "-in", "admin.crt", "-noout", "-subject"]);
    assert!(subject.contains("system:masters"), "{subject}");
    openssl(&["pkey", "-in", "sa.key", "-noout"]);
    openssl(&["pkey", "-pubin", "-in", "sa.pub", "-noout"]);
}

const AUTHORITY_FILE: &str = certificates::AUTHORITY;

#[test]
fn the_kubeconfig_is_read_by_kube() {
    let certificates = Certificates::make("127.0.0.1".parse().expect("an address")).expect("certificates");
    let text = kubeconfig("https://127.0.0.1:6443", &certificates);
    let config = kube::config::Kubeconfig::from_yaml(&text).expect("a kubeconfig");
    let user = config.auth_infos[0].auth_info.as_ref().expect("a user");
    assert!(user.client_key_data.is_some());
    let cluster = config.clusters[0].cluster.as_ref().expect("a cluster");
    assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let listen = "127.0.0.1:0".parse().expect("an address");
    let error = RealServer::start(Path::new("/nowhere"), folder.path(), listen).await.expect_err("not there");
    assert!(error.to_string().contains("starting /nowhere/etcd"), "{error}");
}

#[tokio::test]
async fn a_program_that_ends_is_quoted() {
    let folder = tempfile::tempdir().expect("a folder");
    let etcd = folder.path().join("etcd");
    fs::write(&etcd, "#!/bin/sh\necho the disk is full >&2\n").expect("written");
    fs::set_permissions(&etcd, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("made executable");
    let listen = "127.0.0.1:0".parse().expect("an address");
    let error = RealServer::start(folder.path(), folder.path(), listen).await.expect_err("it ends");
    assert!(matches!(error, RealError::Ended { program: "etcd", .. }), "{error}");
    assert!(error.to_string().contains("the disk is full"), "{error}");
}
