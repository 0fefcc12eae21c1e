"""UVC: a primal-dual search over scores and cost."""
