from collections.abc import Callable

ROW = {"user_id": "a", "prompt": "Hi", "chosen": "good", "rejected": "bad"}
SMALL = ["--ranks", "1,2", "--unseen", "0.25"]
Command = Callable[..., tuple[int, str, str]]
