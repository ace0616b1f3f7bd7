"""Print the folder of this interpreter's library; exit with 1 if it has none that a program can be linked with."""

import sys
import sysconfig
from pathlib import Path

folder = sysconfig.get_config_var("LIBDIR")
name = sysconfig.get_config_var("LDLIBRARY")
if not (folder and name and name.endswith(".so") and Path(folder, name).exists()):
    sys.exit(1)
print(folder)
