//! Which files are sent, and that they arrive.

use super::boxes::BARE;
use super::*;

#[tokio::test]
async fn every_odd_entry_arrives() {
    let repo = Repo::new();
    odd(&repo);
    repo.commit();
    let pushed = mirror(&LocalBox::new(), repo.root()).await;
    assert!(!pushed.skipped);
    assert_eq!(pushed.sent_files, tree(repo.root()).files());
}

#[tokio::test]
async fn a_box_with_only_sh_and_tar_is_enough() {
    let repo = Repo::new();
    odd(&repo);
    let to = LocalBox::with_only(BARE);
    mirror(&to, repo.root()).await;
    put(&to.workdir().join("big"), "drift");
    chmod(&to.workdir().join("README"), 0o755);
    assert_eq!(mirror(&to, repo.root()).await.drifted, 2);
}
