//! An image made on the spot: a busybox that needs nothing beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::json;

/// What the image is called.
pub const NAME: &str = "localhost/busybox:1";

/// What a container of it runs that is to stay.
pub const STAY: [&str; 3] = ["/bin/busybox", "sleep", "360000"];

const BUSYBOX: &str = "/usr/bin/busybox";

/// Writes it to `file` as `docker save` does, which containerd and podman both read.
pub fn write(file: &Path) {
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("a static busybox: apt-get install busybox-static");
    symlink("busybox", root.join("bin/ping")).unwrap();
    run("tar", &["--numeric-owner", "-C", "root", "-cf", "layer.tar", "."], work.path());
    let digest = run("sha256sum", &["layer.tar"], work.path());
    let digest = digest.split_whitespace().next().unwrap();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": STAY},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    fs::write(work.path().join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    fs::write(work.path().join("manifest.json"), manifest.to_string()).unwrap();
    let file = file.to_str().unwrap();
    run("tar", &["-cf", file, "manifest.json", "config.json", "layer.tar"], work.path());
}

fn run(program: &str, args: &[&str], folder: &Path) -> String {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
