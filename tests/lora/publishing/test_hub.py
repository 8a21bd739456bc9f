"""A repository on Hugging Face is checked before a training and filled after it, whatever the Hub does."""

import time

import pytest
from huggingface_hub import HfApi

from lora.publishing.hub import (
    SECONDS_BEFORE_RETRIES,
    HubTarget,
    Patience,
    UploadError,
    check_repository,
    check_token,
    open_repository,
    upload,
)
from lora.publishing.hub_process import Reply, Request, answer
from tests.fake_hub import FINE_GRAINED, HANGS, READ, WRITE, Repository, fake_hub
from tests.tiny import assert_one_sentence, write

FILES = {"lora.safetensors": b"weights" * 100, "README.md": b"---\nlicense: other\n---\n", "samples/a.jpg": b"jpeg"}


@pytest.fixture
def hub(monkeypatch):
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "samples").mkdir()
    for name, content in FILES.items():
        write(tmp_path / name, content)
    return tmp_path


def target(repository="me/lora", token=WRITE, *, is_private=True):
    return HubTarget(repository, token, is_private, named="hf_repo_id", token_named="hf_token")


def opened(hub, repository="me/lora", token=WRITE):
    """What the process that talks to the Hub answers, in this process."""
    return answer(HfApi(endpoint=hub.url, token=token), Request(repository, token, True, None))


def uploaded(folder, *, seconds=60.0, before_retries=(0.0,), interrupted=lambda: None):
    return upload(target(), folder, patience=Patience(seconds, before_retries), interrupted=interrupted)


# Names


@pytest.mark.parametrize("name", ["me/my-lora", " me/a_b.c ", "Org-1/x"])
def test_a_name_of_owner_and_repository_is_accepted(name):
    assert check_repository("hf_repo_id", name) == name.strip()


@pytest.mark.parametrize(
    "name",
    [
        "my-lora",
        "a/b/c",
        "me/",
        "/lora",
        "https://huggingface.co/me/lora",
        "me/lo ra",
        "me/lora.git",
        "me/lo--ra",
        "me/löra",
        "me/" + "x" * 97,
    ],
)
def test_another_name_is_refused_without_a_request(name):
    with pytest.raises(ValueError) as error:
        check_repository("hf_repo_id", name)
    assert_one_sentence(error.value, "hf_repo_id is ", "expected owner/name on Hugging Face")


# Before the training


@pytest.mark.parametrize("token", [WRITE, FINE_GRAINED])
def test_a_repository_is_created_and_its_access_checked(hub, token):
    assert opened(hub, token=token) == Reply(url=f"{hub.url}/me/lora", is_private=True)
    assert hub.repositories["me/lora"].is_private
    assert hub.count("GET /api/models/me/lora/auth-check/write") == 1


@pytest.mark.parametrize(
    ("repository", "token", "error"),
    [
        ("me/lora", READ, "{token} has the role read: expected a token with write access"),
        ("me/lora", "hf_s3cret-wrong", "{token} is not accepted by Hugging Face"),
        ("you/lora", WRITE, "{token} does not give write access to it"),
        ("you/theirs", FINE_GRAINED, "{token} does not give write access to it"),
    ],
)
def test_a_token_that_cannot_write_is_refused_before_the_training(hub, repository, token, error):
    hub.repositories["you/theirs"] = Repository(is_private=False)
    reply = opened(hub, repository, token)
    assert reply.error.startswith(error)
    assert not reply.is_transient
    assert_one_sentence(reply.error, "expected")
    assert "s3cret" not in reply.error
    assert list(hub.repositories) == ["you/theirs"]


def test_a_refusal_names_the_input_and_a_server_that_fails_is_no_fault_of_the_user(hub):
    hub.faults["whoami"] = [403, 500]
    with pytest.raises(ValueError) as refused:
        open_repository(target())
    assert_one_sentence(refused.value, "hf_repo_id is 'me/lora': hf_token does not give write access to it (it broke)")
    with pytest.raises(OSError, match="hf_repo_id is 'me/lora': Hugging Face responded with status 500") as failed:
        open_repository(target())
    assert_one_sentence(failed.value, "try again later")


def test_an_older_repository_keeps_its_visibility_which_the_log_says(hub):
    hub.repositories["me/lora"] = Repository(is_private=False)
    line = f"the LoRA will be uploaded to {hub.url}/me/lora, which existed and is public: that is not changed"
    assert open_repository(target()) == line


def test_a_server_that_does_not_respond_costs_no_more_than_the_deadline(hub):
    hub.faults["whoami"] = [HANGS]
    began = time.monotonic()
    with pytest.raises(OSError, match="Hugging Face took too long to respond; try again later"):
        open_repository(target(), seconds=0.1)
    assert time.monotonic() - began < 5


def test_a_server_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    reply = answer(HfApi(endpoint="http://127.0.0.1:9", token=WRITE), Request("me/lora", WRITE, True, None))
    assert reply.is_transient
    assert_one_sentence(reply.error, "Hugging Face cannot be reached (")


# After it


def test_all_files_arrive_in_one_commit_though_a_file_and_a_commit_fail_once(hub, folder):
    """huggingface_hub retries the 503 of a file, but not the 500 of a commit. The fake has no Xet, which
    huggingface_hub would wait for."""
    hub.repositories["me/lora"] = Repository(is_private=True)
    hub.faults |= {"PUT /lfs": [503], "/commit/": [500]}
    assert uploaded(folder) == f"{hub.url}/me/lora"
    assert hub.repositories["me/lora"].files == FILES
    assert hub.repositories["me/lora"].commits == 1


def test_an_upload_that_always_fails_is_given_up_after_its_retries(hub, folder):
    hub.repositories["me/lora"] = Repository(is_private=True)
    hub.faults["/commit/"] = [500] * 9
    with pytest.raises(UploadError) as error:
        uploaded(folder)
    assert_one_sentence(error.value, "Hugging Face responded with status 500 (it broke)")
    assert hub.count("/commit/") == 2
    assert len(SECONDS_BEFORE_RETRIES) == 3


def test_a_refused_upload_is_not_retried(hub, folder):
    hub.repositories["me/lora"] = Repository(is_private=True)
    hub.faults["/commit/"] = [403]
    with pytest.raises(UploadError, match="hf_token does not give write access to it"):
        uploaded(folder)
    assert hub.count("/commit/") == 1


@pytest.mark.parametrize(("seconds", "reason"), [(0.6, None), (60, "the server is shutting down")])
def test_an_upload_that_hangs_ends_at_its_deadline_or_with_the_job(hub, folder, seconds, reason):
    hub.repositories["me/lora"] = Repository(is_private=True)
    hub.faults["/commit/"] = [HANGS]
    began = time.monotonic()
    with pytest.raises(UploadError, match=reason or "Hugging Face took too long to respond"):
        uploaded(folder, seconds=seconds, interrupted=lambda: reason if hub.count("/commit/") else None)
    assert time.monotonic() - began < 10
    assert hub.repositories["me/lora"].files == {}


def test_a_cancelled_job_uploads_nothing_more(hub, folder):
    """Cog cancels by an exception in the thread of the job."""
    hub.repositories["me/lora"] = Repository(is_private=True)

    class CancelationError(BaseException):
        pass

    def cancel():
        raise CancelationError

    with pytest.raises(CancelationError):
        uploaded(folder, interrupted=cancel)
    time.sleep(0.3)
    assert hub.count("/commit/") == 0


def test_a_larger_lora_has_more_time(folder):
    small = Patience.for_folder(folder)
    write(folder / "large", b"x" * 1_000_000)
    assert Patience.for_folder(folder).seconds == pytest.approx(small.seconds + 2)


@pytest.mark.parametrize("token", ["hf_s3cret\nx", "hf s3cret", "hf_s3crét", "hf_s3cret\0"])
def test_a_text_that_cannot_be_a_token_is_refused_and_not_shown(token):
    with pytest.raises(ValueError) as error:
        check_token("hf_token", token)
    assert_one_sentence(error.value, "hf_token has characters that no token has: expected")
    assert "s3cr" not in str(error.value)


def test_a_token_is_never_shown():
    assert "s3cret" not in repr(target())
