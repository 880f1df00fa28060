"""The demo in a real browser: upload, answer, an unusable file, two users at once."""

import shutil

import pytest
from helpers import five_tasks

gradio = pytest.importorskip("gradio", reason="the demo's extra is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on the path"),
]
PATIENCE_MS = 120_000  # a loaded machine is slow, not wrong


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from geohf.demo.app import launch, make_app

    folder = tmp_path_factory.mktemp("demo")
    five_tasks.TASKS["street"].make().save_pretrained(folder / "model")
    (folder / "examples").mkdir()
    five_tasks.PHOTO.save(folder / "examples" / "a.jpg")
    app = make_app(folder / "model", "cpu", examples=folder / "examples")
    yield launch(app, block=False)
    app.close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield browser
        browser.close()


def ask(page, address, path):
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.locator("input[type=file]").set_input_files(path)
    page.get_by_text(path.stem).first.wait_for()  # the upload has ended
    page.get_by_role("button", name="Answer", exact=True).click()


def test_upload_answer_unusable_file_and_two_users(address, browser, tmp_path):
    photo, script = tmp_path / "upload1.jpg", tmp_path / "upload2.jpg"
    five_tasks.PHOTO.save(photo)
    script.write_text("<script>document.title = 'taken'</script>")
    first, second = (browser.new_context().new_page() for _ in range(2))
    asked = []
    first.on("request", lambda request: asked.append(request.url))
    ask(first, address, photo)
    ask(second, address, script)
    first.locator(".geohf-answer").wait_for()
    second.get_by_role("alert").filter(has_text="is not an image").wait_for()
    assert second.locator(".geohf-answer").count() == 0
    assert "taken" not in second.title()
    inside = first.frame_locator("iframe.geohf-map")
    inside.get_by_text("radius").or_(inside.get_by_text("predicted")).first.wait_for()  # its script ran
    assert inside.locator("#panel h2").inner_text() == "photo 1"
    assert not [url for url in asked if not url.startswith((address, "data:", "about:", "blob:"))]
    first.context.close()
    second.context.close()
