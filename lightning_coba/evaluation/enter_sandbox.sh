# The first commands inside a sandbox, while mounting is still allowed: bubblewrap cannot limit the number of files.
# Arguments: size of the program's folder in MiB, then the command.
set -e
mount -t tmpfs -o nosuid,nodev,mode=777,nr_inodes=4096,size="$1"m tmpfs /work
cd /work
cp -R /files/. .
# The kernel ends the program first where the machine has no memory left.
echo 1000 > /proc/self/oom_score_adj
echo sandbox entered
unset PWD OLDPWD
shift
exec "$@"
