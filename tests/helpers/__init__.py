"""What tests share: tiny models (`tiny`), commands (`cli`), servers (`serving`, `endpoint`), runs (`tasks`), data."""
