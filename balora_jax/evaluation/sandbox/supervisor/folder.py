"""The folder into which a program writes: its size, and its end, whatever is inside."""

import os


def usage(folder: str, most_files: int) -> tuple[int, int]:
    """Count bytes on disk and files in a folder; at `most_files` the count ends.

    Args:
      folder: the folder.
      most_files: a number of files that is too many.
    """
    size = 0
    files = 0
    waiting = [folder]
    while waiting and files < most_files:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    files += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if files >= most_files:
                        break
        except OSError:
            # Deleted meanwhile, or not readable.
            continue
    return size, files


def delete(folder: str) -> None:
    """Delete a folder and all it holds; links in it are deleted, not followed.

    Folders inside are moved beside it before they are emptied, so that no path is ever long.

    Args:
      folder: the folder, into which no process writes any more.

    Raises:
      OSError: something cannot be deleted.
    """
    waiting = [folder]
    moved = 0
    while waiting:
        current = waiting.pop()
        with os.scandir(current) as entries:
            inside = list(entries)
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                # A folder without these permissions can neither be moved nor read.
                os.chmod(entry.path, 0o700)
                place = f"{folder}.{moved}"
                os.rename(entry.path, place)
                waiting.append(place)
                moved += 1
            else:
                os.unlink(entry.path)
        os.rmdir(current)
